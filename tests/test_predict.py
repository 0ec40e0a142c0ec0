"""`catsdogs predict`: where photos come from, what it prints, and which models it can ask."""

import io
import json
import os
import sys
from pathlib import Path

from catsdogs import stage
from catsdogs.commands import predict
from catsdogs.data import images
from catsdogs.stage import UserError
from catsdogs.tracking.serving import Classifier

import numpy as np
import pytest
import yaml
from conftest import REPOSITORY, photo


class Mean:
    """A model that answers with the mean of the pixels, of 255."""

    input_shape = (None, 8, 8, 3)

    def predict_on_batch(self, pixels):
        return pixels.mean(axis=(1, 2, 3)).reshape(-1, 1) / 255


@pytest.fixture
def folder(tmp_path):
    """Two photos beside a text and a hidden file, two in a folder below that links back."""
    for name in ("b.jpg", "a.PNG", "below/c.jpeg", "below/d[1].jpg", ".hidden.jpg", ".git/e.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(photo(len(name)))
    (tmp_path / "notes.txt").write_text("a text")
    (tmp_path / "below/round").symlink_to(tmp_path, target_is_directory=True)
    return tmp_path


@pytest.fixture
def ask(monkeypatch, capsys):
    """Run `predict` with `Mean`; return its error, the lines on stdout and those on stderr."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(predict.runtime, "pin_for_inference", lambda: None)
    monkeypatch.setattr(predict, "load", lambda _: Classifier(Mean(), "bilinear", ("cat", "dog")))

    def run(*sources, **options):
        try:
            predict.main(list(map(str, sources)), **options)
            error = None
        except UserError as raised:
            error = str(raised)
        out, err = capsys.readouterr()
        return error, out.splitlines(), err.splitlines()

    return run


def found(*sources):
    return [name for name, _ in predict.find(list(map(str, sources)))]


def refused(source):
    with pytest.raises((images.UnusableImage, OSError)) as error:
        for _, read in predict.find([str(source)]):
            read()
    return str(error.value)


def test_a_folder_is_all_images_below_it(folder, capsys):
    expected = ["a.PNG", "b.jpg", "below/c.jpeg", "below/d[1].jpg"]
    assert found(folder) == [str(folder / name) for name in expected]
    assert capsys.readouterr().err == f"{folder}: left out, for its name: notes.txt\n"
    (folder / "more.txt").write_text("another")
    found(folder)
    assert "left out, for its name: more.txt and 1 more\n" in capsys.readouterr().err


def test_a_linked_folder_is_looked_into(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "linked").symlink_to(folder / "below", target_is_directory=True)
    assert f"{elsewhere}/linked/c.jpeg" in found(elsewhere)


def test_a_pattern_is_what_it_matches(folder, monkeypatch):
    assert found(folder / "*.jpg") == [str(folder / "b.jpg")]
    ((_, read),) = predict.find([str(folder / "below/d[1].jpg")])
    assert read() == (folder / "below/d[1].jpg").read_bytes(), "which is a file's name"
    assert found(folder / "*elow/c*") == [str(folder / "below/c.jpeg")]
    everything = found(folder / "**/*.jp*g")
    assert sorted(map(os.path.basename, everything)) == ["b.jpg", "c.jpeg", "d[1].jpg"]
    monkeypatch.setenv("HOME", str(folder))
    assert found("~/b.*") == [str(folder / "b.jpg")]


def test_what_is_not_there_says_so(folder):
    assert refused("") == "the name is empty"
    assert "No such file" in refused(folder / "missing.jpg")
    assert refused(folder / "*.gif") == "no file matches"
    (folder / "empty").mkdir()
    assert refused(folder / "empty") == "there is no image in this folder"
    assert "only http:// and https://" in refused("ftp://example.org/a.jpg")


def test_the_standard_input_is_a_photo(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(photo(1))))
    ((name, read),) = predict.find(["-"])
    assert (name, read()) == ("-", photo(1))


def test_a_file_without_an_end_is_not_read_for_ever():
    assert refused("/dev/zero") == f"more than {images.MAX_FILE_MB} MB"


def test_an_address_is_fetched(server, monkeypatch):
    server.files["/a.jpg"] = photo(1)
    assert predict.fetch(f"{server.url}/a.jpg") == photo(1)
    monkeypatch.setattr(images, "MAX_FILE_MB", len(photo(1)) / 1e6 - 1e-6)
    assert "more than 0.0" in refused(f"{server.url}/a.jpg")


def test_an_address_that_gives_no_photo_says_why(server):
    def page(request):
        request.send_response(200)
        request.send_header("Content-Type", "text/html; charset=utf-8")
        request.end_headers()
        request.wfile.write(b"<html>sign in")

    assert "answers 404" in refused(f"{server.url}/missing.jpg")
    server.answers.append(page)
    assert "a web page: give the address of the image itself" in refused(server.url)
    server.close()
    assert refused(server.url) == "the server cannot be reached"
    assert "\n" not in refused("http://[")
    assert "label empty or too long" in refused("http://example..com/a.jpg")


def test_the_good_ones_are_answered_and_the_bad_ones_named(ask, folder):
    good, bad, missing = folder / "b.jpg", folder / "notes.txt", folder / "missing.jpg"
    error, out, err = ask(missing, good, bad, good)
    assert len(out) == 2 and out[0] == out[1]
    assert out[0].startswith((f"{good}: dog ", f"{good}: cat ")) and out[0].endswith("%")
    assert err == [
        f"{missing}: not an image that can be used: No such file or directory",
        f"{bad}: not an image that can be used: not an image in a known format",
    ]
    assert error == "2 of 4 files could not be used"
    assert ask(good)[0] is None


def test_json_is_an_object_a_line(ask, folder):
    error, out, err = ask(folder / "b.jpg", "/missing.jpg", folder / "a.PNG", as_json=True)
    answers = [json.loads(line) for line in out]
    assert [answer["file"] for answer in answers] == [f"{folder}/b.jpg", f"{folder}/a.PNG"]
    for answer in answers:
        assert set(answer) == {"file", "class", "dog"}
        assert answer["class"] == ("dog" if answer["dog"] >= 0.5 else "cat")
        classifier = Classifier(Mean(), "bilinear", ("cat", "dog"))
        pixels = classifier.decode(Path(answer["file"]).read_bytes())
        assert answer["dog"] == classifier.probability(pixels), "to the last digit"
    assert error and len(err) == 1


def test_a_name_of_any_bytes(ask, tmp_path, monkeypatch):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")
    Path(path).write_bytes(photo(1))
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(stage, "_handle_signals", lambda _: None)
    stage.run(lambda: predict.main([path]))
    stdout.flush()
    assert b"caf\\udce9.jpg: " in stdout.buffer.getvalue()


def test_a_model_whose_answer_is_no_number_is_refused(ask, folder, monkeypatch):
    monkeypatch.setattr(Mean, "predict_on_batch", lambda *_: np.full((1, 1), np.nan))
    assert "answers nan, which is no probability" in ask(folder / "b.jpg")[0]


def test_the_bounds_are_the_pipelines():
    values = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    assert values["split"]["max_megapixels"] == images.MAX_MEGAPIXELS
    assert values["data"]["max_file_mb"] == images.MAX_FILE_MB


def network(shape=(20, 20, 3), last=(1, "sigmoid")):
    from keras import Input, Model, layers

    image = Input(shape)
    signal = layers.GlobalAveragePooling2D()(image) if len(shape) == 3 else image
    return Model(image, layers.Dense(last[0], activation=last[1])(signal))


def nested():
    from keras import Input, Model, layers

    image = Input((20, 20, 3))
    return Model(image, network(last=(2, "softmax"))(layers.Rescaling(1 / 255)(image)))


def layer_of_its_own():
    from keras import Model, layers

    model = network(last=(2, None))
    return Model(model.input, layers.Softmax()(model.output))


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (network, lambda answer: answer[0]),
        (lambda: network(last=(1, None)), lambda answer: sigmoid(answer[0])),
        (lambda: network(last=(2, "softmax")), lambda answer: answer[1]),
        (lambda: network(last=(2, None)), lambda answer: sigmoid(answer[1] - answer[0])),
        (nested, lambda answer: answer[1]),
        (layer_of_its_own, lambda answer: answer[1]),
        (lambda: network((40, 20, 3)), lambda answer: answer[0]),
        (lambda: network((None, None, 3)), lambda answer: answer[0]),
    ],
)
def test_models_that_say_it_in_another_way(tensorflow, make, expected):
    model = make()
    for layer in model.layers:
        layer.set_weights([weights / 100 for weights in layer.get_weights()])
    adapted = predict.adapt(model, "theirs", 30)
    rows, columns = adapted.input_shape[1:3]
    assert (rows, columns) == tuple(side or 30 for side in model.input_shape[1:3])
    image = Classifier(adapted, "bilinear", ("cat", "dog")).decode(photo(1, (90, 50)))
    assert image.shape == (rows, columns, 3)
    dog = Classifier(adapted, "bilinear", ("cat", "dog")).probability(image)
    assert dog == pytest.approx(expected(model.predict_on_batch(image[None])[0]), abs=1e-5)


def two_answers():
    from keras import Model

    one = network()
    return Model(one.input, [one.output, one.output])


def not_built():
    from keras import Sequential, layers

    return Sequential([layers.Flatten(), layers.Dense(1)])


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: network(last=(3, "softmax")), "theirs gives 3 from `softmax`: one number from"),
        (lambda: network(last=(2, "sigmoid")), "theirs gives 2 from `sigmoid`"),
        (lambda: network(last=(1, "tanh")), "theirs gives 1 from `tanh`"),
        (lambda: network((20, 20, 1)), "theirs takes 20×20×1 and not RGB images"),
        (lambda: network((5,)), "theirs takes 5 and not RGB images"),
        (two_answers, "theirs does not take one image and give one answer"),
        (not_built, "theirs does not take one image and give one answer"),
    ],
)
def test_other_models_are_refused_in_one_line(tensorflow, make, problem):
    with pytest.raises(UserError) as error:
        predict.adapt(make(), "theirs", 30)
    assert problem in str(error.value) and "\n" not in str(error.value)


def test_a_models_file_and_the_bounds_of_the_checkout(tensorflow, tmp_path, monkeypatch):
    values = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    values["split"] |= {"max_megapixels": 0.01, "interpolation": "nearest"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(tmp_path)
    network().save("theirs.keras")
    classifier = predict.load("theirs.keras")
    assert classifier.interpolation == "nearest"
    with pytest.raises(images.UnusableImage, match=r"split.max_megapixels \(0.01\)"):
        classifier.decode(photo(1, (150, 100)))
    classifier.decode(photo(1, (100, 90)))
    (tmp_path / "models").mkdir()
    network().save("models/train_basic.keras")
    for name in ("basic", "train_basic"):
        assert predict.load(name).interpolation == "nearest"
    with pytest.raises(UserError, match=r"train_inception\.keras is not here: run `dvc repro`"):
        predict.load("inception")
    for name in ("basicc", "train_basicc", "https://example.org/a.keras"):
        with pytest.raises(UserError, match=f"{name} is neither .*: basic, augmented, inception$"):
            predict.load(name)
    with pytest.raises(UserError, match="is a folder: name a"):
        predict.load(str(tmp_path))
