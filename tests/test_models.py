import subprocess
import sys
import zipfile

import train_inception
from catsdogs.models import cnn, inception, saved
from catsdogs.models.features import _hash
from catsdogs.stage import UserError

import numpy as np
import pytest
from conftest import REPOSITORY, STAND_IN_WEIGHTS

SETTINGS = train_inception.TrainInception.model_construct(dense=[1024], dropout=0.2)


pytestmark = pytest.mark.usefixtures("tensorflow")


def layers(model):
    return [layer.__class__.__name__ for layer in model.layers]


def test_the_small_cnn_is_the_notebooks():
    model = cnn.build(150, [32, 64, 128], [128, 512])
    assert model.count_params() == 4_894_913
    assert layers(model) == [
        "Rescaling", "Conv2D", "MaxPooling2D", "Conv2D", "MaxPooling2D", "Conv2D", "MaxPooling2D",
        "Flatten", "Dense", "Dense", "Dense",
    ]  # fmt: skip
    convolutions = [layer for layer in model.layers if "Conv2D" in layer.__class__.__name__]
    assert {layer.padding for layer in convolutions} == {"valid"}
    assert {layer.kernel_size for layer in convolutions} == {(3, 3)}
    assert model.layers[-1].activation.__name__ == "sigmoid"


def test_inception_is_cut_and_frozen():
    trunk = inception.build_trunk(150, "mixed7", None)
    assert trunk.output_shape == (None, 7, 7, 768)
    assert trunk.count_params() == 8_975_264
    assert not any(layer.name.startswith(("mixed8", "mixed9")) for layer in trunk.layers)
    head = train_inception.build_head((7, 7, 768), SETTINGS)
    model = inception.join(inception.with_scaling(trunk), head)
    assert model.count_params() - trunk.count_params() == 37_632 * 1024 + 1024 + 1024 + 1
    assert len(model.trainable_weights) == 4
    assert layers(model)[-4:] == ["Flatten", "Dense", "Dropout", "Dense"]


def test_normalisation_in_the_trunk_is_in_inference_mode():
    trunk = inception.build_trunk(76, "mixed2", None)
    settings = SETTINGS.model_copy(update={"dense": [4], "dropout": 0.0})
    head = train_inception.build_head(trunk.output_shape[1:], settings)
    model = inception.join(inception.with_scaling(trunk), head)
    images = np.random.default_rng(0).integers(0, 256, (4, 76, 76, 3)).astype("float32")
    before = [weight.copy() for weight in trunk.get_weights()]
    together = model(images, training=True).numpy()
    alone = np.concatenate([model(image[None], training=True).numpy() for image in images])
    assert np.allclose(together, alone, atol=1e-5), "an image's result depends on its batch"
    assert all(np.array_equal(*pair) for pair in zip(before, trunk.get_weights(), strict=True))


def test_a_trunk_is_divided_and_its_upper_part_learns_but_for_normalisation():
    trunk = inception.build_trunk(76, "mixed2", None)
    frozen, blocks = inception.divide(trunk, "mixed1")
    head = train_inception.build_head(trunk.output_shape[1:], SETTINGS)
    whole = inception.join(inception.with_scaling(frozen), blocks, head)
    alike = inception.join(inception.with_scaling(trunk), head)
    images = np.random.default_rng(0).integers(0, 256, (2, 76, 76, 3)).astype("float32")
    assert np.allclose(whole(images), alike(images), atol=1e-6)
    fitted = inception.join(blocks, head)
    assert not frozen.trainable_weights
    assert {weight.path.split("/")[-1] for weight in fitted.trainable_weights} == {
        "kernel",
        "bias",
    }
    assert len(fitted.trainable_weights) == 7 + 4, "seven convolutions, two dense layers"
    assert len(whole.trainable_weights) == 7 + 4
    before = [weight.numpy() for weight in whole.non_trainable_weights]
    features = np.random.default_rng(0).random((4, *frozen.output_shape[1:])).astype("float32")
    fitted.compile("sgd", "binary_crossentropy")
    fitted.train_on_batch(features, np.array([0, 1, 0, 1]))
    after = [weight.numpy() for weight in whole.non_trainable_weights]
    assert all(np.array_equal(*pair) for pair in zip(before, after, strict=True))


def test_features_are_found_again_whatever_else_is_built():
    """By a training with a second phase, and by the one without that came before."""
    import keras

    fingerprints = []
    for tuned in (False, True):
        keras.backend.clear_session()  # as in a process of its own
        keras.utils.set_random_seed(1)
        trunk = inception.build_trunk(76, "mixed2", None)
        if tuned:
            inception.divide(trunk, "mixed0")
        fingerprints.append(_hash(inception.with_scaling(trunk)))
    assert fingerprints[0] == fingerprints[1]
    lower, _ = inception.divide(trunk, "mixed1")
    assert _hash(inception.with_scaling(lower)) != fingerprints[0]


@pytest.mark.parametrize("name", ["he_normal", "glorot_normal"])
def test_the_small_cnns_weights_are_drawn_as_asked(name):
    model = cnn.build(32, [4], [4, 4], name)
    drawn = [
        layer.kernel_initializer.__class__.__name__ for layer in model.layers if layer.weights
    ]
    asked = "".join(word.capitalize() for word in name.split("_"))
    assert drawn == [asked] * 3 + ["GlorotUniform"]


@pytest.mark.skipif(not STAND_IN_WEIGHTS.exists(), reason="the stand-in weights are not here")
def test_pretrained_weights_are_loaded():
    trunk = inception.build_trunk(150, "mixed7", STAND_IN_WEIGHTS)
    import h5py

    with h5py.File(STAND_IN_WEIGHTS) as file:
        first = file["conv2d/conv2d/kernel"][:]
    assert np.array_equal(trunk.layers[1].get_weights()[0], first)


def test_features_are_those_of_keras_own_way_with_a_file_of_keras_layout(tmp_path):
    import h5py
    import keras
    from keras.applications import inception_v3
    from keras.src.legacy.saving import legacy_h5_format

    network = inception_v3.InceptionV3(include_top=False, weights=None, input_shape=(76, 76, 3))
    random = np.random.default_rng(0)
    for layer in network.layers:
        if layer.weights and isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, w.shape) for w in layer.weights])
    file = tmp_path / "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"
    with h5py.File(file, "w") as written:
        legacy_h5_format.save_weights_to_hdf5_group(written, network)

    pixels = random.integers(0, 256, (3, 76, 76, 3)).astype("float32")
    own = keras.Model(network.input, network.get_layer("mixed7").output)
    expected = own(inception_v3.preprocess_input(pixels.copy()), training=False).numpy()
    trunk = inception.build_trunk(76, "mixed7", file)
    got = inception.with_scaling(trunk)(pixels).numpy()
    assert expected.std() > 0.01
    assert np.allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(inception.with_scaling(trunk)(pixels / 255).numpy(), expected, rtol=0.1)


def test_pixels_become_what_keras_own_weights_were_trained_on():
    from keras.applications.inception_v3 import preprocess_input

    pixels = np.arange(256, dtype="float32")
    assert np.allclose(inception.scaling()(pixels), preprocess_input(pixels.copy()), atol=1e-6)


def test_a_folded_trunk_has_the_same_features():
    """Also behind a random trunk, whose normalisation is calibrated and whose features are cut."""
    trunk = inception.build_trunk(75, "mixed1", None)
    rng = np.random.default_rng(1)
    for layer in trunk.layers:
        if "batch_normalization" in layer.name:
            layer.set_weights(
                [rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()]
            )
    folded = inception.fold(trunk)
    assert not [layer for layer in folded.layers if "batch_normalization" in layer.name]
    assert not folded.trainable_weights
    pixels = rng.integers(0, 256, (4, 75, 75, 3), np.uint8)
    features = [inception.with_scaling(each)(pixels).numpy() for each in (trunk, folded)]
    assert np.allclose(*features, rtol=1e-4, atol=1e-4 * features[0].max())
    assert features[0].any()


def test_weights_of_another_network_are_refused(tmp_path):
    other = tmp_path / "other.weights.h5"
    cnn.build(32, [4], [4]).save_weights(other)
    with pytest.raises(UserError, match="does not hold weights of InceptionV3"):
        inception.build_trunk(150, "mixed7", other)


def test_equal_models_are_equal_files(tmp_path):
    import keras

    model = cnn.build(32, [4], [4])
    model.compile("adam", "binary_crossentropy")
    saved.save(model, tmp_path / "a.keras")
    saved.save(model, tmp_path / "b.keras")
    assert (tmp_path / "a.keras").read_bytes() == (tmp_path / "b.keras").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2
    with zipfile.ZipFile(tmp_path / "a.keras") as archive:
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}
        assert saved.SAVED in archive.read("metadata.json").decode()
        assert '"shared_object_id": 0' in archive.read("config.json").decode()
    assert not hasattr(keras.models.load_model(tmp_path / "a.keras"), "optimizer")


def test_plain_keras_opens_the_file(tmp_path):
    import keras

    model = cnn.build(32, [4], [4])
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    saved.save(model, tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    assert np.array_equal(loaded.predict(images, verbose=0), model.predict(images, verbose=0))


def test_what_is_no_model(tmp_path):
    (tmp_path / "a.keras").write_text("no model")
    with pytest.raises(UserError, match="is not a model that Keras can load"):
        saved.load(tmp_path / "a.keras")
    with pytest.raises(UserError, match="is not here: run `dvc repro`"):
        saved.load(tmp_path / "b.keras")


def test_light_stages_start_without_tensorflow_and_mlflow():
    heavy = "{'tensorflow', 'keras', 'mlflow'}"
    program = f"import download, split, compare, sys; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY / "src",
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "[]"
