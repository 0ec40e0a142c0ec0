import download
import evaluate
import split
import train_augmented
import train_basic
import train_inception
from catsdogs import params, runtime
from catsdogs.stage import UserError
from compare import Compare

import pytest
import yaml
from conftest import REPOSITORY, merge

SECTIONS = {
    "data": download.Data,
    "split": split.Split,
    "runtime": runtime.Settings,
    "train_basic": train_basic.TrainBasic,
    "train_augmented": train_augmented.TrainAugmented,
    "train_inception": train_inception.TrainInception,
    "evaluate": evaluate.Evaluate,
    "compare": Compare,
}


def write(tmp_path, changes):
    values = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(merge(values, changes)))
    return path


def test_every_section_of_params_yaml_is_read():
    values = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    assert list(values) == list(SECTIONS)
    for section, model in SECTIONS.items():
        assert params.load(section, model, REPOSITORY / "params.yaml")


def test_the_notebooks_numbers_are_the_defaults():
    values = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    assert (
        values["split"] | {"train": 20000, "validation": 5000, "image_size": 150}
        == values["split"]
    )
    for stage in ("train_basic", "train_augmented", "train_inception"):
        schedule = {"batch_size": 32, "epochs": 15, "steps_per_epoch": 100, "validation_steps": 50}
        assert values[stage] | schedule == values[stage]


@pytest.mark.parametrize("written", ["1e-4", "1E-4", "0.0001", 0.0001])
def test_a_number_is_what_its_writer_meant(tmp_path, written):
    path = write(tmp_path, {"train_basic": {"learning_rate": written}})
    assert params.load("train_basic", train_basic.TrainBasic, path).learning_rate == 1e-4


def test_a_whole_number_may_be_written_as_a_power(tmp_path):
    path = write(tmp_path, {"train_basic": {"steps_per_epoch": "1e3"}})
    assert params.load("train_basic", train_basic.TrainBasic, path).steps_per_epoch == 1000


@pytest.mark.parametrize(
    ("section", "change", "said"),
    [
        ("train_basic", {"learning_rate": "fast"}, "train_basic.learning_rate is 'fast' but"),
        ("train_basic", {"learning_rate": 0}, "should be greater than 0"),
        ("train_basic", {"learning_rate": float("nan")}, "should be a finite number"),
        ("train_basic", {"learning_rate": True}, "should be a valid number"),
        (
            "train_basic",
            {"epochs": 1.5},
            "train_basic.epochs is 1.5 but should be a valid integer",
        ),
        ("train_basic", {"epochs": None}, "train_basic.epochs is None but"),
        ("train_basic", {"epoch": 3}, "train_basic.epoch is unknown: did you mean epochs?"),
        ("train_basic", {"optimizer": "adamw"}, "should be 'adam', 'rmsprop' or 'sgd'"),
        ("train_basic", {"dense": [128, 0]}, "train_basic.dense.1 is 0 but"),
        (
            "train_augmented",
            {"augmentation": {"zoom": 1.5}},
            "train_augmented.augmentation.zoom is",
        ),
        (
            "train_augmented",
            {"augmentation": {"zom": 1}},
            "augmentation.zom is unknown: did you mean",
        ),
        ("train_inception", {"cut": "mixed11"}, "train_inception.cut is 'mixed11' but should be"),
        ("evaluate", {"hits": 3}, "evaluate.hits is 3 but should be a multiple of 2"),
        ("split", {"train": 7}, "split.train is 7 but should be a multiple of 2"),
        ("runtime", {"onednn": "yes please"}, "runtime.onednn is 'yes please' but"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, section, change, said):
    path = write(tmp_path, {section: change})
    with pytest.raises(UserError) as error:
        params.load(section, SECTIONS[section], path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_key_is_named(tmp_path):
    values = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    del values["split"]["seed"]
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=r"split\.seed is missing"):
        params.load("split", split.Split, path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("split: [", "is not YAML"),
        ("just text", "holds no sections"),
        ("data: {seed: 2024-13-45}", "is not YAML: month must be"),
        ("splitt: {}", "splitt is unknown: did you mean split?"),
        ("data: {}", "the section `split` is missing or empty"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path, text, said):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        params.load("split", split.Split, path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="run from the repository's root"):
        params.load("split", split.Split, tmp_path / "params.yaml")


def test_a_wrong_section_stops_a_stage_before_it_touches_anything(checkout):
    checkout.change_params({"data": {"sample_images": 7}})
    result = checkout.script("download", check=False)
    assert result.returncode == 1
    assert result.stderr.strip() == (
        "error: params.yaml: data.sample_images is 7 but should be greater than or equal to 20"
    )
    assert not (checkout.path / "data").exists()
