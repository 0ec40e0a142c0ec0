import struct

from catsdogs import convolutions, examples, explanations, networks
from catsdogs.gradcam import heat

import numpy as np
import pytest
import yaml

LABELS = np.array([1, 0, 1, 0, 0, 1])
PROBABILITIES = np.array([0.9, 0.2, 0.4, 0.7, 0.01, 0.5])


def size(path):
    """Width and height of a PNG."""
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    return struct.unpack(">II", content[16:24])


def test_mistakes_are_the_worst_first_and_no_hit_is_among_them():
    assert list(examples.worst_mistakes(LABELS, PROBABILITIES, 4)) == [3, 2]
    assert list(examples.worst_mistakes(LABELS, PROBABILITIES, 1)) == [3]
    assert list(examples.worst_mistakes(LABELS, LABELS.astype(float), 4)) == []


def test_hits_are_the_surest_half_of_them_cats():
    assert list(examples.best_hits(LABELS, PROBABILITIES, 2)) == [4, 0]
    assert list(examples.best_hits(LABELS, PROBABILITIES, 60)) == [4, 1, 0, 5]


def test_a_constant_model_takes_every_image_for_the_same():
    """P(dog) 0.5 counts as dog, as everywhere; of equals the first come first."""
    constant = np.full(6, 0.5)
    assert list(examples.worst_mistakes(LABELS, constant, 2)) == [1, 3]
    assert list(examples.best_hits(LABELS, constant, 4)) == [0, 2]


def test_the_first_of_each():
    assert list(examples.first_of_each(LABELS, 4)) == [1, 3, 0, 2]
    assert list(examples.first_of_each(LABELS[:2], 4)) == [1, 0]


def test_grey_is_zero_and_each_kernel_has_a_scale_of_its_own():
    kernels = np.zeros((3, 2, 2, 3))
    kernels[0, 0, 0, 0], kernels[0, 1, 1, 1] = 0.1, -0.05
    kernels[1, 0, 1, 2] = -7
    colours = convolutions.as_colours(kernels)
    assert colours[0, 0, 0].tolist() == [1, 0.5, 0.5]
    assert colours[0, 1, 1].tolist() == [0.5, 0.25, 0.5]
    assert colours[1, 0, 1].tolist() == [0.5, 0.5, 0]
    assert (colours[2] == 0.5).all()


def test_channels_are_active_and_unlike_one_another():
    maps = np.zeros((2, 2, 2, 8))
    step, spot = np.array([[1, 1], [0, 0]]), np.array([[1, 0], [0, 0]])
    maps[..., 6] = 3 * step  # the most active
    maps[..., 1] = 2 * step  # its copy
    maps[..., 4] = 1 - step  # its opposite
    maps[..., 3] = step.T
    maps[..., 0] = spot / 10  # not active enough
    assert list(convolutions.varied(maps, 1)) == [6]
    assert list(convolutions.varied(maps, 2)) == [3, 6]
    assert list(convolutions.varied(maps, 20)) == list(range(8))


def test_dead_channels_are_channels_too():
    assert list(convolutions.varied(np.zeros((2, 3, 3, 5)), 2)) == [0, 1]
    assert list(convolutions.varied(np.zeros((2, 3, 3, 1)), 2)) == [0]


@pytest.mark.parametrize("filters", [[3], [2, 3, 4, 5, 6]])
def test_any_number_of_convolutions(tensorflow, tmp_path, filters):
    """What is drawn is the network's own: its last map, pooled and flattened, gives its answer."""
    model = networks.cnn(150, filters, [4])
    kernels = convolutions.first_kernels(model)
    assert kernels.shape == (filters[0], 3, 3, 3)
    assert np.array_equal(kernels[1], model.layers[1].get_weights()[0][..., 1])
    images = np.random.default_rng(0).integers(0, 256, (2, 150, 150, 3), np.uint8)
    maps = convolutions.feature_maps(model, images)
    assert [each.shape[3] for each in maps] == filters
    assert min(each.min() for each in maps) == 0, "after the ReLU"
    signal = maps[-1]
    for layer in model.layers[2 * len(filters) :][-4:]:
        signal = layer(signal)
    assert np.allclose(signal, model(images.astype("float32")), atol=1e-6)
    chosen = [convolutions.varied(each, 8) for each in maps]
    path = tmp_path / "maps.png"
    explanations.draw_feature_maps("train_basic", images, [0, 1], maps, chosen, path)
    assert size(path)[1] > 200 * len(filters)


def corner_model():
    """Its answer is the brightness of the upper left corner, and nothing else."""
    model = networks.cnn(34, [2], [1])
    _, convolution, _, _, hidden, answer = model.layers
    convolution.set_weights([np.full((3, 3, 3, 2), 1 / 27), np.zeros(2)])
    places = np.zeros((16, 16, 2, 1))
    places[:4, :4] = 1
    hidden.set_weights([places.reshape(-1, 1), np.zeros(1)])
    answer.set_weights([np.ones((1, 1)), np.full(1, -8.0)])
    return model


def test_grad_cam_lights_up_the_corner_that_decides(tensorflow):
    """A bright spot there makes it a dog; one elsewhere speaks for nothing, nor does darkness."""
    images = np.zeros((3, 34, 34, 3), np.uint8)
    images[0, :8, :8] = 255
    images[1, -8:, -8:] = 255
    model = corner_model()
    maps = heat(model, images)
    assert (model(images.astype("float32"))[:, 0].numpy() > 0.5).tolist() == [True, False, False]
    assert maps[0, :3, :3].min() > 0.9
    assert maps[0, 5:].max() == maps[0, :, 5:].max() == 0
    assert maps[1:].max() == 0
    assert heat(model, images[:0]).shape[0] == 0


@pytest.fixture
def captions(monkeypatch):
    """Of all pictures that are placed, marked ones in capitals."""
    placed, picture = [], explanations.Sheet.picture

    def note(sheet, left, top, size, caption, *layers, marked=False):
        placed.append(caption.upper() if marked else caption)
        picture(sheet, left, top, size, caption, *layers, marked=marked)

    monkeypatch.setattr(explanations.Sheet, "picture", note)
    return placed


def looks(count, probability=0.5):
    """So many images of noise, their places in files with awkward names."""
    rng = np.random.default_rng(0)
    stages = ("train_basic", "train_augmented", "train_inception")
    return explanations.Looks(
        rng.integers(0, 256, (count, 40, 40, 3), np.uint8),
        [f"cat/{'long' * 60}_$x$.{place}.jpg" for place in range(count)],
        np.arange(count) % 2,
        {stage: rng.random((count, 3, 3)) for stage in stages},
        {stage: np.full(count, probability) for stage in stages},
    )


@pytest.mark.parametrize("count", [0, 1, 5])
def test_any_number_of_images_is_drawn_the_same_each_time(tmp_path, count):
    for name in ("once.png", "again.png"):
        path = tmp_path / name
        explanations.draw_looks("heading", looks(count), path, "train_augmented")
    assert (tmp_path / "once.png").read_bytes() == path.read_bytes()
    assert size(path)[1] > 100 * -(-count // 2)


def test_the_models_stand_beside_each_image_and_the_one_meant_first(tmp_path, captions):
    answers = looks(2, probability=0.75)
    explanations.draw_looks("heading", answers, tmp_path / "looks.png", "train_augmented")
    cat, *models = captions[:4]
    assert cat.endswith("$x$.0.jpg\na cat")
    assert models == [
        "AUGMENTED\nP(DOG) 0.750 ✗",
        "basic\nP(dog) 0.750 ✗",
        "inception\nP(dog) 0.750 ✗",
    ]
    assert captions[4].endswith("a dog")
    assert [caption[-1] for caption in captions[5:]] == ["✓"] * 3
    explanations.draw_looks("heading", answers, tmp_path / "looks.png")
    assert captions[9].startswith("basic")


def test_cat_and_dog_show_the_same_channels(tmp_path, captions):
    images = np.zeros((2, 40, 40, 3), np.uint8)
    maps, channels = [np.ones((2, 5, 5, 9))], [np.array([3, 7])]
    explanations.draw_feature_maps("train_basic", images, [0, 1], maps, channels, tmp_path / "m")
    assert captions == ["a cat", "channel 3", "channel 7", "a dog", "channel 3", "channel 7"]


def test_no_row_for_nobody(tmp_path):
    """What is not there takes no room, so a picture of two is lower than one of three."""
    heights = []
    for count in (0, 2, 3):
        explanations.draw_looks("heading", looks(count), tmp_path / "looks.png")
        heights.append(size(tmp_path / "looks.png")[1])
    assert heights == sorted(set(heights))


@pytest.mark.parametrize("count", [1, 9, 64])
def test_any_number_of_filters(tmp_path, count):
    colours = np.random.default_rng(0).random((count, 3, 3, 3))
    explanations.draw_filters("train_basic", colours, tmp_path / "filters.png")
    assert size(tmp_path / "filters.png")[1] > 60 * -(-count // 8)


def test_the_pipeline_draws_them_all(made):
    pictures = yaml.safe_load((made.path / "dvc.yaml").read_text())["stages"]["evaluate"]["plots"]
    assert pictures == ["plots/evaluate/pictures"]
    drawn = list((made.path / pictures[0]).iterdir())
    assert len(drawn) == 11
    for picture in drawn:
        width, height = size(picture)
        assert 600 < width < 1400
        assert height > 150
