"""The figures that the documentation gives follow from what docs/results keeps."""

import json
import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from math import sqrt

from catsdogs import params, results
from compare import NOTEBOOK

import pandas as pd
import pytest
import yaml
from conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
RUNS = json.loads((DOCS / "results/runs.json").read_text())
PREDICTIONS = pd.read_csv(DOCS / "results/predictions.csv")
CURVES = pd.read_csv(DOCS / "results/curves.csv")
TRIALS = json.loads((DOCS / "results/tuning/runs.json").read_text())
TUNING = 2_000  # images that judged them
SEEDS = ("notebook-1", "notebook-2", "notebook-3")
BETTER = ("better-1", "better-2", "better-3")
LONG = {"basic": "sheared-long-1", "augmented": "long-3"}  # whose network had 6,000 steps
OTHERS = {"view-1", "shorter-1", "averaged-1", *BETTER}
AUGMENTED = set(RUNS) - OTHERS  # what there is on the notebook's augmentation
MODELS = ("basic", "augmented", "inception")
Z = 1.959963984540054  # the normal distribution's 97.5th percentile
T2 = 4.302652729911275  # that of Student's with two degrees of freedom


def right(experiment, model):
    """Which of the 5,000 images a model gets right."""
    md5 = RUNS[experiment]["models"][f"train_{model}"]["md5"]
    return (PREDICTIONS[md5] >= 0.5) == (PREDICTIONS["label"] == 1)


def accuracy(experiment, model):
    """Accuracy with Wilson's 95 % interval."""
    answers = right(experiment, model)
    return wilson(answers.mean(), len(answers))


def wilson(p, n):
    """A share of n, with Wilson's 95 % interval."""
    middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return p, middle - half, middle + half


def difference(first, second):
    """How much more accurate the first is on the same images, with Bonett and Price's interval."""
    one, other = right(*first), right(*second)
    n = len(one) + 2
    a, b = (one & ~other).sum() + 1, (other & ~one).sum() + 1
    half = Z * sqrt((a + b - (a - b) ** 2 / n) / n**2)
    return one.mean() - other.mean(), (a - b) / n - half, (a - b) / n + half


def together(pairs):
    """The mean difference of several pairs on the same images, with the normal interval.

    It counts the images as drawn by chance, not the trainings.
    """
    gains = sum(right(*first) * 1.0 - right(*second) for first, second in pairs) / len(pairs)
    half = Z * gains.std(ddof=1) / sqrt(len(gains))
    return gains.mean(), gains.mean() - half, gains.mean() + half


def shown(numbers, sign=""):
    value, low, high = (f"{number:{sign}.4f}" for number in numbers)
    return f"{value} ({low} to {high})"


def curve(experiment, model):
    """What was measured after each epoch."""
    chosen = CURVES["experiment"].eq(experiment) & CURVES["model"].eq(f"train_{model}")
    return CURVES[chosen].reset_index(drop=True)


def changed(command):
    """What a command changes in params.yaml."""
    parts = pairwise(shlex.split(command))
    return dict(after.split("=", 1) for word, after in parts if word == "-S")


def transformations(trial):
    """What a trial does to its training images, in the words of better.md."""
    (stage,) = TRIALS[trial]["models"]
    if stage == "train_basic":
        return "none"
    command = changed(TRIALS[trial]["command"])
    four = ("width_shift", "height_shift", "shear", "zoom")
    kept = [each for each in four if command.get(f"{stage}.augmentation.{each}") != "0"]
    if f"{stage}.augmentation.horizontal_flip" in command:
        kept.append("flip")
    return "the four" if tuple(kept) == four else ", ".join(kept).replace("_", " ")


def words(page):
    """A page's text, wherever its lines end."""
    return " ".join((DOCS / page).read_text().split())


def table(file, first):
    """The rows of a table, by their first cell, as dictionaries by its head."""
    text = (REPOSITORY / file).read_text()
    (found,) = (each for each in text.split("\n\n") if each.startswith(f"| {first} |"))
    head, _, *body = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines()
    )
    by_name = {row[0]: dict(zip(head, row, strict=True)) for row in body}
    assert len(by_name) == len(body), "two rows of one name"
    return by_name


def test_the_readmes_table_follows_from_the_predictions():
    assert len(PREDICTIONS) == 5_000
    found = table("README.md", "model")
    assert tuple(found) == MODELS
    for model, row in found.items():
        assert row["here"] == shown(accuracy("notebook-1", model))
        longer = shown(accuracy(LONG[model], model)) if model in LONG else ""
        assert row["here, 6,000 steps"] == longer
        better = "here, [better parameters](docs/better.md)"
        assert row[better] == shown(accuracy(BETTER[0], model))
        assert row["the notebook"] == f"{NOTEBOOK[f'train_{model}']['val_accuracy']:.4f}"


def test_the_readme_says_what_chance_in_training_does():
    text = " ".join((REPOSITORY / "README.md").read_text().split())
    for model in ("basic", "augmented"):
        for names, before in ((SEEDS, f"`{model}` "), (BETTER, "better ")):
            seeds = [accuracy(name, model)[0] for name in names]
            assert f"{before}{min(seeds):.4f} to {max(seeds):.4f}" in text
    again = accuracy("nearly-unsheared-1", "augmented")[0]
    assert f"({again:.4f} with a shear of 0.2005° instead of 0.2°)" in text
    assert len(curve(BETTER[0], "inception")) == 35, "epochs of 100 steps"


def test_the_table_of_runs_follows_from_the_predictions():
    found = table("docs/results/README.md", "experiment")
    assert {name.strip("`") for name in found} == set(RUNS), "a row for each of runs.json"
    for experiment, run in RUNS.items():
        row = found[f"`{experiment}`"]
        assert row["commit"] == f"`{run['commit'][:7]}`"
        for model in MODELS:
            assert row[model] == shown(accuracy(experiment, model))


def test_the_answer_follows_from_the_predictions():
    found, text = table("docs/augmentation.md", "experiment"), words("augmentation.md")
    assert {name.strip("`") for name in found} == AUGMENTED, "good news and bad"
    costs = []
    for name, row in found.items():
        experiment = name.strip("`")
        plain = LONG["basic"] if experiment == LONG["augmented"] else experiment
        both = (experiment, "augmented"), (plain, "basic")
        assert row["steps"] == f"{len(curve(*both[0])) * 100:,}"
        assert row["basic"] == shown(accuracy(*both[1]))
        assert row["augmented"] == shown(accuracy(experiment, "augmented"))
        assert row["augmented − basic"] == shown(difference(*both), "+")
        if row["steps"] == "1,500":
            costs.append(-difference(*both)[0])
    assert f"here augmentation costs {min(costs):.3f} to {max(costs):.3f} of accuracy" in text
    replica = difference(("nearly-unsheared-1", "augmented"), ("notebook-1", "augmented"))
    assert "the accuracy by {:.3f} ({:.3f} to {:.3f})".format(*replica) in text
    gained = difference((LONG["augmented"], "augmented"), (LONG["basic"], "basic"))
    assert "and at the end by {:.3f} ({:.3f} to {:.3f})".format(*gained) in text
    ends = [accuracy(name, "augmented")[0] for name in (LONG["augmented"], "sheared-long-1")]
    assert "difference that can be seen: {:.4f} and {:.4f}".format(*ends) in text


def test_what_is_said_of_the_curves_follows_from_them():
    text, plain = words("augmentation.md"), curve(LONG["basic"], "basic")
    assert f"{plain['accuracy'].iloc[-1]:.3f} of them right in the last epoch" in text
    for quantity, sign, sentence in (
        ("val_accuracy", 1, "the augmented network is ahead from about {:,} on"),
        ("val_loss", -1, "In loss, augmentation is ahead from about {:,} steps on"),
    ):
        augmented, basic = (
            curve(LONG[model], model)[quantity].rolling(5, center=True, min_periods=1).mean()
            for model in ("augmented", "basic")
        )
        behind = sign * (augmented - basic) < 0
        epoch = behind[behind].index[-1] + 2  # counted from 1, the first after which it stays so
        assert sentence.format(epoch * 100) in text


def test_what_is_said_of_the_notebooks_figures_follows():
    text = words("augmentation.md")
    published = [NOTEBOOK[f"train_{model}"]["val_accuracy"] for model in ("augmented", "basic")]
    assert "finds the second one worse, {:.4f} against {:.4f}".format(*published) in text
    half = Z * sqrt(sum(p * (1 - p) / 1600 for p in published))
    gap = published[0] - published[1]
    assert f"difference, {shown((gap, gap - half, gap + half), '+')} on its 1,600 images" in text

    fresh = [curve(experiment, "augmented")["accuracy"] for experiment in AUGMENTED]
    first = [values.iloc[0] for values in fresh]
    assert f"they stand at {min(first):.3f} to {max(first):.3f} after 100 steps" in text
    last = [values.iloc[14] for values in fresh]
    assert f"a training accuracy of {min(last):.3f} to {max(last):.3f} in their last epoch" in text
    twice, plain = curve(LONG["augmented"], "augmented").iloc[29], curve("notebook-1", "basic")
    reached = f"{twice['val_accuracy']:.3f} of the validation images after 3,000 steps, "
    assert f"{reached}and a loss of {twice['val_loss']:.3f}" in text
    level = f"at {plain['val_accuracy'].iloc[14]:.3f} and {twice['val_accuracy']:.3f} of the same"
    assert level in text
    told = NOTEBOOK["train_augmented"]
    assert f"ends with {told['val_accuracy']:.4f} and {told['val_loss']:.4f}" in text
    assert len(re.findall(r"0\.692\b", text)) == 2


def test_what_a_trained_network_made_of_augmented_photographs_is_said():
    text = words("augmentation.md")
    measured = json.loads((DOCS / "results/shown_augmented.json").read_text())
    assert measured["model"] == RUNS["notebook-1"]["models"]["train_basic"]["md5"]
    assert f"had a training accuracy of {measured['accuracy']:.3f} in these" in text
    assert f"and {measured['val_accuracy']:.3f} of the 1,600 validation images" in text


def test_what_is_better_follows_from_the_predictions():
    found, text = table("docs/better.md", "model"), words("better.md")
    asked = [("basic", 1), ("basic", 2), ("basic", 3)]
    asked += [("augmented", 1), ("augmented", 2), ("augmented", 3), ("inception", 1)]
    assert tuple(found) == tuple(f"{model}, seed {seed}" for model, seed in asked)
    for model, seed in asked:
        row, pair = found[f"{model}, seed {seed}"], (BETTER[seed - 1], SEEDS[seed - 1])
        assert row["the notebook's parameters"] == shown(accuracy(pair[1], model))
        assert row["better ones"] == shown(accuracy(pair[0], model))
        gained = difference(*((experiment, model) for experiment in pair))
        assert row["difference"] == shown(gained, "+")
    for model in ("basic", "augmented"):
        mean = sum(accuracy(seed, model)[0] for seed in BETTER) / len(BETTER)
        assert f"`{model}` has {mean:.4f} on average" in text
    ahead = [difference((seed, "augmented"), (seed, "basic"))[0] for seed in BETTER]
    assert "ahead of `basic` by {:.4f}, {:.4f} and {:.4f}".format(*ahead) in text
    mean = together([((seed, "augmented"), (seed, "basic")) for seed in BETTER])
    assert f"on average {shown(mean)} where these six" in text
    lucky = difference((BETTER[0], "augmented"), ("nearly-unsheared-1", "augmented"))[0]
    assert f"`nearly-unsheared-1`, the augmented one of seed 1 gains only {lucky:+.3f}" in text
    seen = curve(BETTER[0], "inception")["val_accuracy"]
    phases = (
        f"{seen.iloc[14]:.3f} are right before and {seen.iloc[-1]:.3f} after those 2,000 steps"
    )
    assert phases in text
    averaged = [shown(accuracy("averaged-1", model)).split()[0] for model in MODELS[:2]]
    assert "`averaged-1` has {} and {}, differences of".format(*averaged) in text
    apart = [difference(("averaged-1", model), (BETTER[0], model)) for model in MODELS[:2]]
    assert "differences of {} and {}.".format(*(shown(each, "+") for each in apart)) in text
    assert all(low < 0 < high for _, low, high in apart), "not told apart"
    half = T2 * pd.Series(ahead).std() / sqrt(len(ahead))
    student = f"{mean[0] - half:+.4f} to {mean[0] + half:+.4f}"
    assert f"Student's interval of the three differences, {student}, leaves it open" in text
    flip = f"flip ahead by {mean[0]:.4f} on average, and as pairs are counted, {student}"
    assert flip in words("augmentation.md")
    first = f"`shorter-1`, and had {shown(accuracy('shorter-1', 'inception'))} of the 5,000"
    assert first in text


def test_the_better_parameters_are_those_that_were_run():
    told = (DOCS / "better.md").read_text().split("```")[1]
    run, elsewhere = changed(RUNS[BETTER[0]]["command"]), {"runtime.cpu_isa", *results.FILES}
    kept = {key: value for key, value in run.items() if key not in elsewhere}
    assert {key: value for key, value in changed(told).items() if key not in elsewhere} == kept


def test_the_trials_follow_from_what_is_kept_of_them():
    judges = {tuple(sorted(run["images"].items())) for run in TRIALS.values()}
    assert len(judges) == 1, "the same images judged them"
    assert not judges & {tuple(sorted(run["images"].items())) for run in RUNS.values()}
    found = table("docs/better.md", "tried")
    assert {name.strip("`") for name in found} == set(TRIALS)
    for name, row in found.items():
        run = TRIALS[name.strip("`")]
        ((stage, model),) = run["models"].items()
        command = changed(run["command"])
        assert command["split.tuning"] == str(TUNING)
        assert command[f"{stage}.validation_steps"] == "63", "of 32 images: all of them"
        changes = {
            f"{key.removeprefix(f'{stage}.')}={value}"
            for key, value in command.items()
            if key.startswith(stage) and not re.search("validation_steps|augmentation", key)
        }
        assert set(row["set, beside the notebook's"].replace("`", "").split()) == changes
        assert row["augmentation"] == transformations(name.strip("`"))
        last = model["last_epoch"]
        assert row["accuracy"] == shown(wilson(last["val_accuracy"], TUNING))
        assert row["loss"] == f"{last['val_loss']:.4f}"
    text = words("better.md")
    reached = {name.strip("`"): row["accuracy"].split()[0] for name, row in found.items()}
    assert "the largest step, {basic-cosine} to {basic-he}".format(**reached) in text
    gained = float(reached["basic-cosine"]) - float(reached["basic-notebook"])
    assert f"ahead of a constant one by {gained:.3f}" in text
    averaged = "in the place of a falling rate, {basic-average}, has the lowest loss of all trials"
    apart = Z * sqrt(2 * 0.825 * 0.175 / TUNING)
    assert f"Two trials differ by up to {apart:.3f} from the choice of images alone" in text
    assert averaged.format(**reached) in text
    plain = {name: float(row["loss"]) for name, row in found.items() if "`basic-" in name}
    assert min(plain, key=plain.get) == "`basic-average`"
    flip = "without warm-up, {augmented-flip}, where the network without any augmentation is"
    assert f"{flip}, {{basic-he}}.".format(**reached) in text
    three = "{augmented-flip-warm}, {basic-warm} and {augmented-notebook};".format(**reached)
    assert f"Warm-up included, flip, none and four are at {three}" in text


def training(trial):
    """What a trial changes but for augmentation, whichever small network it trained."""
    settings = changed(TRIALS[trial]["command"]).items()
    return {key.split(".", 1)[1]: value for key, value in settings if ".augmentation." not in key}


def test_the_transformations_follow_from_the_trials():
    found = table("docs/augmentation.md", "transformation")
    for row in found.values():
        trial = row["trial"].strip("`")
        (model,) = TRIALS[trial]["models"].values()
        assert row["accuracy"] == shown(wilson(model["last_epoch"]["val_accuracy"], TUNING))
        assert training(trial) == training("basic-warm")
    none, four, shear = (
        found[key]["accuracy"].split()[0]
        for key in ("none", "the notebook's four", "shear, to 0.2 degrees")
    )
    unseen = float(shear) - float(none)
    assert f"a shear that nobody sees, by {unseen:.4f}, which is" in words("augmentation.md")
    assert f"with the notebook's numbers, {none} to {four}, suggests" in words("augmentation.md")


def test_what_one_view_costs_follows_from_the_predictions():
    text = words("performance.md")
    one, fresh = ("view-1", "inception"), ("sheared-1", "inception")
    costs = f"{accuracy(*one)[0]:.4f} instead of {accuracy(*fresh)[0]:.4f}, a difference of "
    assert costs + shown(difference(one, fresh), "+") in text
    first, second = (curve(*each)["accuracy"].iloc[-1] for each in (one, fresh))
    assert f"training accuracy is {first:.3f} with one, {second:.3f} with fresh ones" in text


def test_scores_follow_from_the_predictions():
    for experiment, run in RUNS.items():
        for stage, model in run["models"].items():
            computed = accuracy(experiment, stage.removeprefix("train_"))
            scores = model["evaluated"]
            kept = [scores[name] for name in ("accuracy", "accuracy_low", "accuracy_high")]
            assert kept == pytest.approx(computed, abs=1e-6)


@pytest.mark.parametrize("folder", ["results", "results/tuning"])
def test_curves_end_where_the_runs_do(folder):
    curves = pd.read_csv(DOCS / folder / "curves.csv")
    ends = curves.groupby(["experiment", "model"]).last()
    runs = json.loads((DOCS / folder / "runs.json").read_text())
    assert set(ends.index) == {(name, stage) for name in runs for stage in runs[name]["models"]}
    for (name, stage), last in ends.iterrows():
        for quantity in ("accuracy", "loss", "val_accuracy", "val_loss"):
            assert last[quantity] == runs[name]["models"][stage]["last_epoch"][quantity]


def test_commands_are_shown_and_change_what_there_is():
    text = (DOCS / "results/README.md").read_text()
    known = dict(params.flatten(yaml.safe_load((REPOSITORY / "params.yaml").read_text())))
    for run in RUNS.values():
        assert run["command"] in text
        assert set(changed(run["command"])) <= set(known)


@pytest.mark.parametrize("picture", ["learning_curves.png", "augmentation.png"])
def test_the_pictures_are_drawn_from_the_curves(picture, tmp_path):
    command = [sys.executable, DOCS / "results/draw.py", "--folder", tmp_path]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(REPOSITORY / "src")})
    assert (tmp_path / picture).read_bytes() == (DOCS / picture).read_bytes()
