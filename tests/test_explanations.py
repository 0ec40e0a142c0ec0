import struct

from catsdogs.evaluation import convolutions, examples
from catsdogs.evaluation.gradcam import GradCam
from catsdogs.models import cnn
from catsdogs.reporting import explanations, figures
from catsdogs.stage import UserError

import numpy as np
import pytest
import yaml

MODELS = ("train_basic", "train_augmented", "train_inception")
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


def test_hits_are_the_surest_half_of_each_class():
    assert list(examples.best_hits(LABELS, PROBABILITIES, 2)) == [4, 0]
    assert list(examples.best_hits(LABELS, PROBABILITIES, 60)) == [4, 1, 0, 5]


def test_a_constant_model_takes_every_image_for_the_same():
    """0.5 counts as the second class, as everywhere; of equals the first come first."""
    constant = np.full(6, 0.5)
    assert list(examples.worst_mistakes(LABELS, constant, 2)) == [1, 3]
    assert list(examples.best_hits(LABELS, constant, 4)) == [0, 2]


def test_the_first_of_each():
    assert list(examples.first_of_each_class(LABELS, 4)) == [1, 3, 0, 2]
    assert list(examples.first_of_each_class(LABELS[:2], 4)) == [1, 0]


def test_grey_is_zero_and_each_kernel_has_a_scale_of_its_own():
    kernels = np.zeros((3, 2, 2, 3))
    kernels[0, 0, 0, 0], kernels[0, 1, 1, 1] = 0.1, -0.05
    kernels[1, 0, 1, 2] = -7
    colours = convolutions.kernels_to_rgb(kernels)
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
    assert list(convolutions.select_distinct_channels(maps, 1)) == [6]
    assert list(convolutions.select_distinct_channels(maps, 2)) == [3, 6]
    assert list(convolutions.select_distinct_channels(maps, 20)) == list(range(8))


def test_dead_channels_are_channels_too():
    assert list(convolutions.select_distinct_channels(np.zeros((2, 3, 3, 5)), 2)) == [0, 1]
    assert list(convolutions.select_distinct_channels(np.zeros((2, 3, 3, 1)), 2)) == [0]


@pytest.mark.parametrize("filters", [[3], [2, 3, 4, 5, 6]])
def test_any_number_of_convolutions(tensorflow, tmp_path, filters):
    """What is drawn is the network's own: its last map, pooled and flattened, gives its answer."""
    model = cnn.build(150, filters, [4])
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
    chosen = [convolutions.select_distinct_channels(each, 8) for each in maps]
    path = tmp_path / "maps.png"
    explanations.draw_feature_maps("train_basic", images, ["cat", "dog"], maps, chosen, path)
    assert size(path)[1] > 200 * len(filters)


def corner_model():
    """Its answer is the brightness of the upper left corner, and nothing else."""
    model = cnn.build(34, [2], [1])
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
    maps = GradCam(model)(images)
    assert (model(images.astype("float32"))[:, 0].numpy() > 0.5).tolist() == [True, False, False]
    assert maps[0, :3, :3].min() > 0.9
    assert maps[0, 5:].max() == maps[0, :, 5:].max() == 0
    assert maps[1:].max() == 0
    assert GradCam(model)(images[:0]).shape[0] == 0


def pooled_model(features, inputs, *between):
    """Average features over their places; every second speaks against a dog, twice as loud."""
    import keras
    from keras import layers

    signal = layers.GlobalAveragePooling2D()(features)
    for layer in between:
        signal = layer(signal)
    dense = layers.Dense(1, activation="sigmoid")
    model = keras.Model(inputs, dense(signal))
    weights = np.where(np.arange(signal.shape[-1]) % 2, -2.0, 1.0)[:, None]
    dense.set_weights([weights, np.zeros(1)])
    return model


def test_grad_cam_worked_out_by_hand(tensorflow):
    """Red speaks for a dog, green twice as much for a cat; blue, whose weight is 1, for a dog."""
    import keras

    inputs = keras.Input((2, 2, 3))
    model = pooled_model(keras.layers.Rescaling(1.0)(inputs), inputs)
    red, green, blue = [255, 0, 0], [0, 255, 0], [0, 0, 255]
    half = [0, 0, 51]
    images = np.array([[[red, half], [green, [0] * 3]], [[green, green], [blue, green]]], np.uint8)
    # Evidence for a dog: 255 + 51 - 510 is below zero, so green counts; so it does in the second.
    assert np.allclose(GradCam(model)(images), [[[0, 0], [1, 0]], [[1, 1], [0, 1]]])
    images[0, 1, 0] = 0
    # Now 255 + 51 speak for a dog, the more the brighter.
    assert np.allclose(GradCam(model)(images)[0], [[1, 0.2], [0, 0]])


def mobile_net(size, **options):
    import keras

    keras.utils.set_random_seed(1)
    return keras.applications.MobileNetV3Small(
        include_top=False, weights=None, input_shape=(size, size, 3), **options
    )


def reference(trunk, images):
    """Grad-CAM of `pooled_model` on a trunk: the pooled features' weights are the gradients."""
    features = trunk(images.astype("float32"), training=False).numpy()
    weights = np.where(np.arange(features.shape[-1]) % 2, -2.0, 1.0)
    evidence = (features.mean(axis=(1, 2)) @ weights)[:, None, None]
    maps = np.maximum((features * weights).sum(axis=-1) * np.sign(evidence), 0)
    return maps / maps.max(axis=(1, 2), keepdims=True)


@pytest.mark.parametrize("nesting", ["flat", "nested", "nested twice"])
def test_grad_cam_of_a_network_of_keras(tensorflow, tmp_path, nesting):
    """However a trunk is built in, its last features are those that are shown."""
    import keras

    images = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)
    trunk = mobile_net(96)
    if nesting == "flat":
        model = pooled_model(trunk.output, trunk.input, keras.layers.Dropout(0.5))
    else:
        inputs = keras.Input((96, 96, 3))
        if nesting == "nested":
            features = trunk(inputs)
        else:  # with a pooling of its own, so what comes out has no place
            pooled = keras.Model(trunk.input, keras.layers.GlobalAveragePooling2D()(trunk.output))
            inner = keras.Sequential([keras.Input((96, 96, 3)), pooled])
            features = keras.layers.Reshape((1, 1, -1))(inner(inputs))
        model = pooled_model(features, inputs)
    path = tmp_path / "model.keras"
    model.save(path)
    maps = GradCam(keras.models.load_model(path))(images)
    assert maps.shape == (2, 3, 3)
    assert np.allclose(maps, reference(trunk, images), atol=1e-5)


def test_grad_cam_looks_where_everything_passes(tensorflow):
    """A branch that goes past features makes them one part of the evidence, not all of it."""
    import keras
    from keras import layers

    inputs = keras.Input((8, 8, 3))
    shared = layers.Conv2D(4, 3, padding="same", name="shared")(inputs)
    branch = layers.Conv2D(4, 3, name="branch")(shared)
    pooling = layers.GlobalAveragePooling2D
    signal = layers.Concatenate()([pooling()(branch), pooling()(shared)])
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(signal))
    assert GradCam(model)(np.full((1, 8, 8, 3), 9, np.uint8)).shape == (1, 8, 8)


def test_grad_cam_says_what_it_cannot_explain(tensorflow):
    import keras

    for last in (keras.layers.Dense(2, activation="sigmoid"), keras.layers.Dense(1)):
        model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), last])
        with pytest.raises(UserError, match=r'end it in Dense\(1, activation="sigmoid"\)'):
            GradCam(model)


def test_convolutions_of_small_cnns_only_are_drawn(tensorflow):
    import keras

    nested = keras.Sequential([keras.Input((40, 40, 3)), mobile_net(40)])
    grey = keras.Sequential([keras.Input((9, 9, 1)), keras.layers.Conv2D(2, 3)])
    assert convolutions.can_be_drawn(cnn.build(40, [2, 2], [4]))
    for model in (mobile_net(40), nested, grey, cnn.build(10, [2], [4]).layers[-1:]):
        model = keras.Sequential(model) if isinstance(model, list) else model
        assert not convolutions.can_be_drawn(model)


@pytest.fixture
def captions(monkeypatch):
    """Of all pictures that are drawn, framed ones in capitals."""
    found, save = [], figures.save

    def note(figure, path, **options):
        found.clear()
        for axes in figure.axes:
            caption = axes.get_title(loc="left")
            if axes.get_visible() and caption:
                found.append(caption.upper() if axes.spines["left"].get_visible() else caption)
        save(figure, path, **options)

    monkeypatch.setattr(figures, "save", note)
    return found


def heat_maps(count, probability=0.5, models=MODELS):
    """So many images of noise, their places in files with awkward names."""
    rng = np.random.default_rng(0)
    return explanations.HeatMaps(
        rng.integers(0, 256, (count, 40, 40, 3), np.uint8),
        [f"cat/{'long' * 60}_$x$.{place}.jpg" for place in range(count)],
        np.arange(count) % 2,
        ("cat", "dog"),
        {stage: rng.random((count, 3, 3)) for stage in models},
        {stage: np.full(count, probability) for stage in models},
    )


@pytest.mark.parametrize("count", [0, 1, 5])
def test_any_number_of_images_is_drawn_the_same_each_time(tmp_path, count):
    for name in ("once.png", "again.png"):
        path = tmp_path / name
        explanations.draw_heat_maps("heading", heat_maps(count), path, "train_augmented")
    assert (tmp_path / "once.png").read_bytes() == path.read_bytes()
    assert size(path)[1] > 100 * -(-count // 2)


def test_the_models_stand_beside_each_image_and_the_one_meant_first(tmp_path, captions):
    answers = heat_maps(2, probability=0.75)
    explanations.draw_heat_maps("heading", answers, tmp_path / "looks.png", "train_augmented")
    cat, *models = captions[:4]
    assert cat.endswith("$x$.0.jpg\ncat")
    assert models == [
        "AUGMENTED\nP(DOG) 0.750 ✗",
        "basic\nP(dog) 0.750 ✗",
        "inception\nP(dog) 0.750 ✗",
    ]
    assert captions[4].endswith("\ndog")
    assert [caption[-1] for caption in captions[5:]] == ["✓"] * 3
    others = answers._replace(classes=("wolf", "fox"))
    explanations.draw_heat_maps("heading", others, tmp_path / "looks.png")
    assert captions[0].endswith("\nwolf")
    assert captions[1] == "basic\nP(fox) 0.750 ✗"
    others = answers._replace(classes=("golden retriever", "labrador retriever"))
    explanations.draw_heat_maps("heading", others, tmp_path / "looks.png")
    assert captions[1] == "basic\nP(labrador re…)\n0.750 ✗"


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_any_number_of_models(tmp_path, captions, count):
    """All models stand beside each of the images, on a page that a screen can show."""
    models = [f"train_{number}" for number in range(count)]
    path = tmp_path / "maps.png"
    explanations.draw_heat_maps("heading", heat_maps(7, models=models), path)
    assert len(captions) == 7 * (1 + count)
    titles = [caption.partition("\n")[0] for caption in captions[1 : 1 + count]]
    assert titles == [str(number) for number in range(count)]
    assert 500 < size(path)[0] < 1400


def test_cat_and_dog_show_the_same_channels(tmp_path, captions):
    images = np.zeros((2, 40, 40, 3), np.uint8)
    maps, channels = [np.ones((2, 5, 5, 9))], [np.array([3, 7])]
    explanations.draw_feature_maps(
        "train_basic", images, ["cat", "dog"], maps, channels, tmp_path / "m"
    )
    assert captions == ["cat", "channel 3", "channel 7", "dog", "channel 3", "channel 7"]


def test_no_row_for_nobody(tmp_path):
    """What is not there takes no room, so a picture of two is lower than one of three."""
    heights = []
    for count in (0, 2, 3):
        explanations.draw_heat_maps("heading", heat_maps(count), tmp_path / "looks.png")
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
