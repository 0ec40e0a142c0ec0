import os
from concurrent.futures import ThreadPoolExecutor

from catsdogs.data.augmentation import BORDERS, Augmentation, affine_maps, augment
from catsdogs.data.batches import FixedBatches, PixelReader, Subset, TrainingBatches
from catsdogs.workers import Part

import cv2
import numpy as np
import pytest

OFF = Augmentation(
    width_shift=0,
    height_shift=0,
    shear=0,
    zoom=0,
    rotation=0,
    horizontal_flip=False,
    fill_mode="nearest",
)
ON = OFF.model_copy(update={"width_shift": 0.2, "height_shift": 0.2, "shear": 12, "zoom": 0.2})
COUNT, SIZE = 10, 12


@pytest.fixture
def pixels(tmp_path):
    images = np.empty((COUNT + 5, SIZE, SIZE, 3), np.uint8)
    for number, image in enumerate(images):
        image[:] = np.random.default_rng(number).integers(0, 256, image.shape, np.uint8)
        image[0, 0] = number
    np.save(tmp_path / "00000.npy", images)
    return PixelReader(tmp_path)


@pytest.fixture
def subset():
    rows = np.arange(3, COUNT + 3)
    return Subset(rows, [str(row) for row in rows], (rows % 2).astype(np.float32))


def rows_of(images):
    return images[:, 0, 0, 0].tolist()


def test_a_step_is_a_function_of_the_seed_and_itself(pixels, subset):
    one, other = (TrainingBatches(pixels, subset, 4, 1, ON) for _ in range(2))
    forwards = [one(step) for step in range(12)]
    backwards = [other(step) for step in reversed(range(12))]
    for ours, theirs in zip(forwards, reversed(backwards), strict=True):
        assert np.array_equal(ours[0], theirs[0])
        assert np.array_equal(ours[1], theirs[1])
    reseeded = TrainingBatches(pixels, subset, 4, 2, ON)
    assert not np.array_equal(one(0)[0], reseeded(0)[0])


@pytest.mark.parametrize("system", ["has preadv", "has none"])
def test_threads_change_nothing(tmp_path, monkeypatch, system):
    images = np.random.default_rng(0).integers(0, 256, (40, 60, 60, 3), np.uint8)
    for number in range(40):  # more than a thread keeps open
        np.save(tmp_path / f"{number:05}.npy", images[[number]])
    subset = Subset(np.arange(40), [], np.arange(40, dtype=np.float32))
    batches = TrainingBatches(PixelReader(tmp_path), subset, 16, 1, ON)
    alone = [batches(step) for step in range(200)]
    if system == "has none":
        monkeypatch.delattr(os, "preadv", raising=False)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(batches, range(200)))
    for ours, theirs in zip(alone, together, strict=True):
        assert np.array_equal(ours[0], theirs[0])
        assert np.array_equal(ours[1], theirs[1])


def test_every_pass_sees_every_image_once_in_an_order_of_its_own(pixels, subset):
    batches = TrainingBatches(pixels, subset, 4, 1)
    seen = [row for step in range(5) for row in rows_of(batches(step)[0])]  # two passes of ten
    assert sorted(seen[:10]) == sorted(seen[10:]) == subset.rows.tolist()
    assert seen[:10] != seen[10:]


def test_an_image_is_seen_otherwise_at_every_step(pixels, subset):
    alone = Subset(subset.rows[:1], subset.names[:1], subset.labels[:1])
    batches = TrainingBatches(pixels, alone, 2, 1, ON)
    views = [image.tobytes() for step in range(3) for image in batches(step)[0]]
    assert len(set(views)) == 6


def test_labels_belong_to_their_images(pixels, subset):
    images, labels = TrainingBatches(pixels, subset, 8, 1)(0)
    assert labels.tolist() == [row % 2 for row in rows_of(images)]
    assert (images.dtype, labels.dtype) == (np.uint8, np.float32)


def test_fixed_batches_are_the_first_so_many(pixels, subset):
    batches = FixedBatches(pixels, subset, 4, limit=7)
    assert len(batches) == 2
    assert [rows_of(batches(step)[0]) for step in range(2)] == [[3, 4, 5, 6], [7, 8, 9]]
    assert len(FixedBatches(pixels, subset, 4)) == 3


def test_keras_gets_the_same_batches(tensorflow, pixels, subset):
    from catsdogs.data.batches import feed

    batches = TrainingBatches(pixels, subset, 4, 1, ON)
    fed = list(feed(batches, 3, 6).as_numpy_iterator())
    assert len(fed) == 3
    for step, (images, labels) in zip(range(3, 6), fed, strict=True):
        assert np.array_equal(images, batches(step)[0])
        assert np.array_equal(labels, batches(step)[1])


@pytest.mark.parametrize("row", [-1, COUNT + 5])
def test_there_is_no_row_beyond_the_images(pixels, row):
    with pytest.raises(IndexError, match=f"row {row} of {COUNT + 5}"):
        pixels[[0, row]]


def test_nothing_is_changed_where_everything_is_off(pixels):
    images = pixels[range(5)]
    assert np.array_equal(augment(images, OFF, np.random.default_rng(0)), images)


@pytest.mark.parametrize(
    "change",
    [
        {"width_shift": 0.2},
        {"height_shift": 0.2},
        {"shear": 12},
        {"zoom": 0.2},
        {"rotation": 30},
        {"horizontal_flip": True},
    ],
)
def test_each_transformation_does_something(pixels, change):
    images = pixels[range(8)]
    before = images.copy()
    changed = augment(images, OFF.model_copy(update=change), np.random.default_rng(0))
    assert not np.array_equal(changed, images)
    assert np.array_equal(images, before), "the input stays as it was"
    again = augment(images, OFF.model_copy(update=change), np.random.default_rng(0), out=images)
    assert again is images
    assert np.array_equal(images, changed)


def test_a_flip_mirrors_half_of_the_images(pixels):
    images = pixels[[0] * 200]
    flipped = OFF.model_copy(update={"horizontal_flip": True})
    views = augment(images, flipped, np.random.default_rng(0))
    mirrored = [np.array_equal(view, images[0][:, ::-1]) for view in views]
    plain = [np.array_equal(view, images[0]) for view in views]
    assert sum(mirrored) + sum(plain) == 200
    assert 70 < sum(mirrored) < 130


def test_the_ranges_are_what_they_say():
    def draw(**change):
        augmentation = OFF.model_copy(update=change)
        return affine_maps(4000, 100, 100, augmentation, np.random.default_rng(0))

    shift = draw(width_shift=0.2)[:, 0, 2]
    assert -20 <= shift.min() < -19.5 < 19.5 < shift.max() <= 20
    zoom = draw(zoom=0.2)
    assert 0.8 <= zoom[:, 0, 0].min() < 0.805 < 1.195 < zoom[:, 0, 0].max() <= 1.2
    assert not np.allclose(zoom[:, 0, 0], zoom[:, 1, 1]), "height and width each by its own"
    shear = np.arcsin(-draw(shear=12)[:, 0, 1])
    assert np.isclose(np.rad2deg(shear.max()), 12, atol=0.2)
    angle = np.arcsin(draw(rotation=30)[:, 1, 0])
    assert np.isclose(np.rad2deg(angle.max()), 30, atol=0.2)


@pytest.mark.parametrize("fill_mode", BORDERS)
@pytest.mark.parametrize("change", [{}, {"zoom": 0.9, "width_shift": 1.0, "rotation": 180}])
def test_views_are_those_of_one_plain_warp(fill_mode, change):
    """Whatever is done for speed; where little is seen of an image, all but a few values."""
    every = ON.model_copy(update={"horizontal_flip": True, "fill_mode": fill_mode, **change})
    images = np.random.default_rng(0).integers(0, 256, (20, 30, 40, 3), np.uint8)
    maps = affine_maps(20, 30, 40, every, np.random.default_rng(1))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    expected = [
        cv2.warpAffine(image, map_, (40, 30), None, flags, BORDERS[fill_mode])
        for image, map_ in zip(images, maps, strict=True)
    ]
    views = augment(images, every, np.random.default_rng(1))
    assert (views != np.array(expected)).mean() <= (1e-4 if change else 0)


def test_views_are_those_of_keras(tensorflow):
    """All transformations at once, against Keras' own function for one image."""
    from keras.src.legacy.preprocessing.image import apply_affine_transform

    size, count = 60, 8
    y, x = np.mgrid[:size, :size]
    image = np.stack([y * 4, x * 4, 120 + 100 * np.sin(x / 9) * np.cos(y / 7)], axis=2)
    images = np.repeat(image[None].astype(np.uint8), count, axis=0)
    every = ON.model_copy(update={"rotation": 25})
    views = augment(images, every, np.random.default_rng(0))
    for view, draw in zip(views, np.random.default_rng(0).uniform(-1, 1, (count, 7)), strict=True):
        expected = apply_affine_transform(
            images[0].astype(float),
            theta=25 * draw[0],
            tx=0.2 * size * draw[1],  # Keras' function means x, whatever its documentation says
            ty=0.2 * size * draw[2],
            shear=12 * draw[3],
            zx=1 + 0.2 * draw[4],
            zy=1 + 0.2 * draw[5],
            row_axis=0,
            col_axis=1,
            channel_axis=2,
            fill_mode="nearest",
        )
        assert np.abs(view - expected).mean() < 1.5


@pytest.mark.parametrize(
    ("fill_mode", "low", "high"),
    [("nearest", 50, 50), ("reflect", 60, 120), ("wrap", 180, 240), ("constant", 0, 0)],
)
def test_what_lies_beyond_the_left_edge(fill_mode, low, high):
    images = np.empty((60, 20, 20, 3), np.uint8)
    images[:] = (50 + 10 * np.arange(20))[:, None]  # brighter to the right
    shifted = OFF.model_copy(update={"width_shift": 0.3, "fill_mode": fill_mode})
    views = augment(images, shifted, np.random.default_rng(0))
    offsets = affine_maps(60, 20, 20, shifted, np.random.default_rng(0))[:, 0, 2]
    beyond = views[offsets < -2][:, 10, 0, 0]
    assert len(beyond) > 10
    assert low <= beyond.min()
    assert beyond.max() <= high


def test_a_part_is_read_alone_and_is_that_of_the_whole_batch(pixels, subset):
    class Noted:
        shape = pixels.shape

        def __getitem__(self, rows):
            self.read = len(rows)
            return pixels[rows]

    noted = Noted()
    for batches in (TrainingBatches(noted, subset, 6, 1, ON), FixedBatches(noted, subset, 6)):
        images, labels = batches(1)
        half = len(labels) // 2
        for number, its in enumerate((slice(half), slice(half, 2 * half))):
            part = batches(1, Part(number, 2))
            assert noted.read == half
            assert np.array_equal(part[0], images[its])
            assert np.array_equal(part[1], labels[its])
