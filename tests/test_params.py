import re
import shutil

import download
import evaluate
import split
import train_augmented
import train_basic
import train_inception
from catsdogs import params, runtime
from catsdogs.commands import preset
from catsdogs.stage import UserError
from compare import Compare

import pytest
import yaml
from conftest import REPOSITORY, merge, run_python
from dvc.utils.serialize import dump_yaml

SECTIONS = {
    "data": download.Data,
    "split": split.Split,
    "runtime": runtime.Settings,
    "rehearsal": runtime.Rehearsal,
    "local": runtime.Local,
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
        ("train_basic", {"optimizer": "adamw"}, "should be 'adam', 'rmsprop', 'sgd' or 'muon'"),
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


@pytest.mark.parametrize(
    "classes",
    [
        ["cat", "dog"],
        ["Wolf", "arctic fox"],
        ["0", "1"],
        ["кошка", "собака"],
        ["with_mask", "no-mask"],
    ],
)
def test_two_classes(tmp_path, classes):
    path = write(tmp_path, {"data": {"classes": classes}})
    assert params.load_classes(path) == tuple(classes)


@pytest.mark.parametrize("classes", [["no", "yes"], ["on", "off"], ["0", "1"], ["true", "false"]])
def test_classes_as_dvc_writes_them(tmp_path, classes):
    """Unlike PyYAML, it knows YAML 1.2, in which `no` is a text and needs no quotes."""
    path = tmp_path / "params.yaml"
    dump_yaml(path, {"data": {"classes": classes}})
    assert params.load_classes(path) == tuple(classes)
    assert params.read(path)["data"] == {"classes": classes}


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["cat", "dog", "fox"], "is ['cat', 'dog', 'fox'] but should list two classes"),
        (["cat"], "should list two classes"),
        ("cat, dog", "should list two classes"),
        (None, "should list two classes"),
        (["cat", ""], "letters, digits, spaces, - and _"),
        (["cat", " "], "letters, digits"),
        (["cat", "dog "], "letters, digits"),
        (["cat", "dog/a"], "letters, digits"),
        (["cat", ".."], "letters, digits"),
        (["cat", "x" * 41], "letters, digits"),
        ([0, 1], "in quotes where YAML reads no text"),
        ([True, False], "in quotes"),
        (["object", "class"], "none of them `class` or `file`"),
        (["folder", "file"], "none of them `class` or `file`"),
        (["cat", "Cat"], "differ in more than case"),
        (["fox", "foxes"], "a plural"),
        (["wolves", "wolf"], "a plural"),
        (["hot dog", "hot_dog"], "spaces"),
    ],
)
def test_what_is_no_two_classes_is_one_line(tmp_path, classes, said):
    path = write(tmp_path, {"data": {"classes": classes}})
    with pytest.raises(UserError) as error:
        params.load_classes(path)
    assert str(error.value).startswith(f"{path}: data.classes is ")
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


INCEPTION_AND_CNNS = [
    "split.image_size is 20, of which the 3 convolutions of train_basic.filters leave nothing",
    "split.image_size is 20, of which the 3 convolutions of train_augmented.filters leave nothing",
    "split.image_size is 20 and InceptionV3 (train_inception) needs at least 75",
]
TUNED = {"above": "mixed6", "epochs": 2}
PHOTOGRAPHS = {"data": {"source": "photographs.zip"}}
LATER = "fine_tuning.above is mixed7, and nothing of the trunk is above it: name a block below"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"split": {"image_size": 20}}, INCEPTION_AND_CNNS),
        ({"split": {"tuning": 20000}}, ["split.tuning should be less than split.train"]),
        (
            {"train_basic": {"warmup_steps": 1500}},
            ["train_basic.warmup_steps is 1500 but should be less than the 1500 steps of"],
        ),
        ({"train_basic": {"warmup_steps": 1499}}, []),
        (
            {"train_inception": {"warmup_steps": 200, "fine_tuning": TUNED}},
            ["the 200 steps of train_inception.fine_tuning.epochs"],
        ),
        ({"train_inception": {"warmup_steps": 199, "fine_tuning": TUNED}}, []),
        ({"train_inception": {"fine_tuning": {"above": "mixed7"}}}, [LATER]),
        ({"train_inception": {"fine_tuning": {"above": "mixed9"}}}, ["above is mixed9"]),
        ({"runtime": {"precision": "bfloat16", "cpu_isa": "AVX2"}}, []),
        (
            {"runtime": {"precision": "bfloat16", "cpu_isa": "AVX2"}, **PHOTOGRAPHS},
            ["runtime.precision bfloat16 needs instructions that runtime.cpu_isa AVX2 forbids"],
        ),
        (
            {"evaluate": {"models": ["train_basic", "train_basik"]}},
            ["evaluate.models has train_basik, which is no training stage: did you mean train_"],
        ),
        (
            {"data": {"classes": ["cat"], "source": "a.zip"}},
            ["data.classes is ['cat'] but should list two classes"],
        ),
        (
            {"data": {"classes": ["fox", "wolf"]}},
            ["data.source sample holds the classes cat and dog, but data.classes has fox and"],
        ),
        ({"train_other": {"seed": 1}}, ["train_other has no src/train_other.py with a class Tr"]),
        (
            {"split": {"tuning": 3}, "train_basic": {"epochs": 0, "dens": [1]}, "local": {}}
            | {"train_inception": {"cut": "mixed11"}, "compare": {"significance": 2}},
            [
                "split.tuning is 3",
                "train_basic.epochs is 0",
                "train_basic.dens is unknown",
                "local.checkpoint_steps is missing",
                "local.cache_gb is missing",
                "train_inception.cut is 'mixed11'",
                "compare.significance is 2",
            ],
        ),
    ],
)
def test_all_that_can_be_known_wrong_is_said_at_once(tmp_path, changes, said):
    values = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    values = {section: {} for section in changes} | values  # one may be new
    if changes.get("local") == {}:
        values["local"] = {}
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(merge(values, changes)))
    if not said:
        return params.check(path)
    with pytest.raises(UserError) as error:
        params.check(path)
    for problem in said:
        assert problem in str(error.value)
    assert str(error.value).count(";") == len(said) - 1
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("stage", ["download", "split", "train_basic", "evaluate"])
def test_whichever_stage_runs_first_refuses_what_a_later_one_would(checkout, stage):
    checkout.change_params(
        {"train_inception": {"fine_tuning": {"above": "mixed9"}}, "compare": {"significance": 7}}
    )
    result = checkout.script(stage, check=False)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "error: params.yaml: compare.significance is 7" in line
    assert "; train_inception.fine_tuning.above is mixed9" in line
    assert not (checkout.path / "data").exists()


def test_a_look_at_the_other_sections_leaves_no_module_behind():
    """Else an edit of another stage would make a training begin anew after a kill."""
    loaded = "{name for name in sys.modules if name.startswith(('catsdogs', 'evaluate', 'down'))}"
    code = f"import sys, train_basic; from catsdogs import params; before = {loaded}\n"
    code += f"params.check(); print(*{loaded} - before, 'tensorflow' in sys.modules)"
    assert run_python(code) == "False\n"


def test_a_wrong_section_stops_a_stage_before_it_touches_anything(checkout):
    checkout.change_params({"data": {"sample_images": 7}})
    result = checkout.script("download", check=False)
    assert result.returncode == 1
    assert result.stderr.strip() == (
        "error: params.yaml: data.sample_images is 7 but should be greater than or equal to 20"
    )
    assert not (checkout.path / "data").exists()


PRESETS = sorted(path.stem for path in (REPOSITORY / "presets").glob("*.yaml"))


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with params.yaml and the presets, as the working directory."""
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    shutil.copytree(REPOSITORY / "presets", tmp_path / "presets")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_changes_its_parameters_and_nothing_else(root, name, capsys):
    before = (root / "params.yaml").read_text()
    preset.main(name)
    params.check()
    after = (root / "params.yaml").read_text()
    old, new = (dict(params.flatten(yaml.safe_load(text))) for text in (before, after))
    assert {key: new[key] for key in preset.read(name)} == preset.read(name)
    changed = {key for key in old if old[key] != new[key]}
    said = capsys.readouterr().out.splitlines()
    assert {line.partition(":")[0] for line in said[:-1]} == changed
    comments = [[line.partition("#")[2] for line in text.splitlines()] for text in (before, after)]
    assert comments[0] == comments[1]
    lines = zip(before.splitlines(), after.splitlines(), strict=True)
    assert sum(one != other for one, other in lines) == len(changed) > 0
    preset.main(name)
    assert (root / "params.yaml").read_text() == after


def test_a_preset_may_write_numbers_and_texts_as_params_yaml_does(root):
    (root / "presets/mine.yaml").write_text(
        "data: {source: a.zip, classes: [no, yes]}\ntrain_basic: {learning_rate: 1e-4}\n"
    )
    preset.main("mine")
    params.check()
    assert params.load_classes() == ("no", "yes")
    assert params.read()["train_basic"]["learning_rate"] == 0.0001
    before = (root / "params.yaml").read_text()
    preset.main("mine")
    assert (root / "params.yaml").read_text() == before


def test_the_presets_are_listed(root, capsys):
    preset.main(None)
    said = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert list(said) == PRESETS
    assert all(text.endswith(".") for text in said.values())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "mine is no preset; known are"),
        ("after: bettr", "bettr is no preset: did you mean better?"),
        ("after: mine", "presets/mine.yaml comes after itself"),
        (
            "train_basic: {epochs: 1, optimiser: sgd}",
            "train_basic.optimiser, which is unknown: did you mean",
        ),
        ("train_basics: {optimizer: sgd}", "train_basics.optimizer, which is unknown: did you me"),
        ("train_basic: 3", "train_basic, which is unknown"),
        ("- 1", "mine.yaml holds no sections"),
        ("{", "mine.yaml is not YAML"),
        ("train_basic: {augmentation: {zoom: 1}}", "train_basic.augmentation.zoom, which is unk"),
    ],
)
def test_what_is_no_preset_is_one_line(root, text, said, capsys):
    if text:
        (root / "presets/mine.yaml").write_text(text)
    before = (root / "params.yaml").read_text()
    with pytest.raises(UserError, match=re.escape(said)) as raised:
        preset.main("mine")
    assert "\n" not in str(raised.value)
    assert (root / "params.yaml").read_text() == before
    assert capsys.readouterr().out == "", "no change is told that is not made"
