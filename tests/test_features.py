import threading
from dataclasses import replace

from catsdogs import layout
from catsdogs.data.augmentation import Augmentation
from catsdogs.data.batches import FixedBatches, Subset, TrainingBatches
from catsdogs.models import features
from catsdogs.models.features import BoundedViews, CachedFeatures, FeatureCache, pack, unpack
from catsdogs.runtime import Runtime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

pytestmark = pytest.mark.usefixtures("tensorflow")

PINNED = Runtime("tensorflow", "float32", 2, True, "AVX2", 1)
AUGMENTATION = Augmentation(
    width_shift=0.2,
    height_shift=0.2,
    shear=0.2,
    zoom=0.2,
    rotation=0,
    horizontal_flip=True,
    fill_mode="nearest",
)
SIZE, COUNT = 12, 10


def build_trunk(bias=0.0):
    """The same at every call: Keras numbers what has no name."""
    import keras

    convolution = keras.layers.Conv2D(
        5,
        3,
        activation="relu",
        kernel_initializer=keras.initializers.RandomNormal(seed=1),
        bias_initializer=keras.initializers.Constant(bias),
        name="convolution",
    )
    scaling = keras.layers.Rescaling(1 / 127.5, offset=-1, name="scaling")
    pixels = keras.Input((SIZE, SIZE, 3), name="pixels")
    normalisation = keras.layers.BatchNormalization(name="normalisation")
    return keras.Model(pixels, normalisation(convolution(scaling(pixels))), name="trunk")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "FEATURES", tmp_path / "features")
    return tmp_path / "features"


@pytest.fixture
def cache(folder):
    return FeatureCache(build_trunk(), PINNED, 1)


def draw(count=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def ask(cache, images):
    return cache.get(cache.key(images), lambda: images)


def files(folder):
    return [path for path in folder.glob("*/*") if path.is_file()]


@given(
    arrays.arrays(
        np.uint32,
        st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 11)),
        elements=st.one_of(st.just(0), st.just(1 << 31), st.integers(0, 2**32 - 1)),
    )
)
def test_packing_loses_nothing(tmp_path_factory, bits):
    """Every bit of every float, whatever it stands for: zeros of both signs, NaN, infinity."""
    path = tmp_path_factory.mktemp("packed") / "features"
    path.write_bytes(pack(bits.view(np.float32)))
    assert np.array_equal(unpack(path, bits.shape[1:]).view(np.uint32), bits)
    for row, each in enumerate(bits):
        assert np.array_equal(unpack(path, each.shape, row).view(np.uint32), each)


def test_zeros_take_a_bit_each():
    sparse = np.zeros((10, 800), np.float32)
    sparse[:, ::8] = 1.5
    assert len(pack(sparse)) == 4 * (1 + 11) + 10 * (100 + 4 * 100)


def test_what_is_not_whole_is_not_read(tmp_path):
    content = pack(np.arange(24, dtype=np.float32).reshape(2, 12))
    path = tmp_path / "features"
    for end in range(len(content)):
        path.write_bytes(content[:end])
        with pytest.raises((ValueError, IndexError)):
            unpack(path, (12,))


def test_features_are_computed_once_and_are_the_trunks(cache, folder):
    trunk, images = build_trunk(), draw()
    first, second = ask(cache, images), ask(cache, images)
    assert cache.computed == 1
    assert first.tobytes() == second.tobytes()
    assert np.allclose(first, trunk(images, training=False), atol=1e-5)
    later = FeatureCache(build_trunk(), PINNED, 1)
    assert ask(later, images).tobytes() == first.tobytes()
    assert (later.computed, later.read) == (0, 1)
    assert len(files(folder)) == 1


def test_what_is_changed_never_meets_old_features(cache):
    images = draw()
    other = images.copy()
    other[3, 11, 11, 2] ^= 1
    names = {
        cache.key(images),
        cache.key(other),
        cache.key(images[:3]),
        FeatureCache(build_trunk(bias=1e-6), PINNED, 1).key(images),
        FeatureCache(build_trunk(), replace(PINNED, threads=3), 1).key(images),
        FeatureCache(build_trunk(), replace(PINNED, onednn=False), 1).key(images),
    }
    assert len(names) == 6
    assert FeatureCache(build_trunk(), PINNED, 2).key(images) == cache.key(images)


def test_damage_is_computed_anew(cache, folder):
    images = draw()
    first = ask(cache, images)
    (path,) = files(folder)
    content = path.read_bytes()
    for damaged in (b"", content[:-1], content[:3], content + b"x"):
        path.write_bytes(damaged)
        assert ask(cache, images).tobytes() == first.tobytes()
        assert path.read_bytes() == content


def test_the_cache_is_bounded_and_the_longest_unused_goes_first(folder):
    size = len(pack(ask(FeatureCache(build_trunk(), PINNED, 1), draw())))
    cache = FeatureCache(build_trunk(), PINNED, 10.5 * size / 1e9)
    for seed in range(30):
        ask(cache, draw(seed=seed))
        ask(cache, draw(seed=0))  # is used again and again
        assert sum(path.stat().st_size for path in files(folder)) <= cache.limit
    assert len(files(folder)) >= 5
    assert cache.computed == 29, "what was in use went"


def test_without_room_features_are_computed_and_it_is_said_once(cache, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features, "replacing", full)
    for _ in range(2):
        assert np.allclose(ask(cache, draw()), build_trunk()(draw(), training=False), atol=1e-5)
    assert cache.computed == 2
    assert capsys.readouterr().err.count("features are not kept: [Errno 28] No space left") == 1


def test_without_a_folder_features_are_computed_and_it_is_said_once(cache, folder, capsys):
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("a file, where the folder should be")
    for _ in range(2):
        ask(cache, draw())
    assert cache.computed == 2
    assert capsys.readouterr().err.count("features are not kept: ") == 1


def test_two_at_once_share_the_work(cache, folder):
    barrier = threading.Barrier(2)
    results = []

    def ask_all():
        barrier.wait()
        results.extend(ask(cache, draw(seed=seed)).tobytes() for seed in range(20))

    threads = [threading.Thread(target=ask_all) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.computed == 20
    assert len(set(results)) == 20


@pytest.fixture
def subset():
    rows = np.arange(COUNT)[::-1]
    return Subset(rows, [str(row) for row in rows], (rows % 2).astype(np.float32))


def test_batches_become_features(cache, subset):
    training = TrainingBatches(draw(COUNT), subset, 4, 1, AUGMENTATION)
    for batches in (training, FixedBatches(draw(COUNT), subset, 4)):
        seen, labels = CachedFeatures(batches, cache)(1)
        images, theirs = batches(1)
        assert np.array_equal(seen, ask(cache, images))
        assert np.array_equal(labels, theirs)
    assert len(CachedFeatures(FixedBatches(draw(COUNT), subset, 4), cache)) == 3


def test_each_image_has_so_many_views(cache, subset):
    """Ten images, three to a batch: twelve passes and each has its two views, six times each."""
    batches = TrainingBatches(draw(COUNT), subset, 3, 1, AUGMENTATION)
    views = BoundedViews(batches, cache, 2)
    seen = {image: {} for image in range(COUNT)}
    for step in range(40):
        features, labels = views(step)
        turns, chosen = batches.choose(step)
        assert np.array_equal(labels, subset.labels[chosen])
        for feature, turn, image in zip(features, turns, chosen, strict=True):
            seen[image].setdefault(turn % 2, set()).add(feature.tobytes())
    assert all(len(kinds) == 1 for views in seen.values() for kinds in views.values())
    assert all(len(set.union(*views.values())) == 2 for views in seen.values())
    assert cache.computed == 2 * 4, "each batch of three, and the last of one, in both views"


def test_views_do_not_depend_on_the_order_of_steps(cache, subset, folder):
    batches = TrainingBatches(draw(COUNT), subset, 3, 1, AUGMENTATION)
    forwards = [BoundedViews(batches, cache, 2)(step)[0] for step in range(8)]
    for path in files(folder):
        path.unlink()
    views = BoundedViews(batches, cache, 2)
    backwards = [views(step)[0] for step in reversed(range(8))]
    for one, other in zip(forwards, reversed(backwards), strict=True):
        assert one.tobytes() == other.tobytes()
