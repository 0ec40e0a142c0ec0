from itertools import combinations, product

from catsdogs.evaluation import scores, significance

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve

MODELS = ["train_basic", "train_augmented", "train_inception"]
CLASSES = ("grey wolf", "fox")
LABELS = np.array([0, 0, 0, 1, 1, 1, 1, 0])
PROBABILITIES = np.array([0.1, 0.4, 0.6, 0.9, 0.8, 0.3, 0.5, 0.2])


def test_scores_worked_out_by_hand():
    result = scores.score(LABELS, PROBABILITIES, CLASSES, 0.95, 10)
    assert (result["grey wolf_right"], result["grey wolf_wrong"]) == (3, 1)
    assert (result["fox_right"], result["fox_wrong"]) == (3, 1)
    assert result["accuracy"] == result["precision"] == result["recall"] == result["f1"] == 0.75
    assert result["brier"] == pytest.approx(np.mean((PROBABILITIES - LABELS) ** 2), abs=1e-6)
    likelihoods = np.where(LABELS, PROBABILITIES, 1 - PROBABILITIES)
    assert result["loss"] == pytest.approx(-np.log(likelihoods).mean(), abs=1e-6)
    dogs, cats = PROBABILITIES[LABELS == 1], PROBABILITIES[LABELS == 0]
    assert result["roc_auc"] == pytest.approx((dogs[:, None] > cats).mean(), abs=1e-6)


def test_wilsons_interval_is_the_published_one():
    """81 of 263: 0.2553 to 0.3662 (Newcombe 1998, Statistics in Medicine 17, method 3)."""
    labels = np.array([0] + [1] * 262)
    probabilities = np.full(263, 0.2)
    probabilities[1:81] = 0.8
    result = scores.score(labels, probabilities, CLASSES, 0.95, 10)
    assert result["accuracy"] == pytest.approx(81 / 263, abs=1e-6)
    assert result["accuracy_low"] == pytest.approx(0.2553, abs=5e-5)
    assert result["accuracy_high"] == pytest.approx(0.3662, abs=5e-5)


def test_calibration():
    labels = np.array([0, 1, 1, 1])
    probabilities = np.array([0.25, 0.35, 1.0, 0.95])
    table = scores.calibration(labels, probabilities, 2)
    assert table["predicted"].tolist() == [0.3, 0.975]
    assert table["observed"].tolist() == [0.5, 1.0]
    assert table["images"].tolist() == [2, 2]
    assert scores.calibration_error(labels, probabilities, 2) == pytest.approx(0.1125)


def test_calibration_counts_images_in_the_bins_that_its_curve_has():
    """On an edge (a model that always says 0.5), at both ends, and where bins are empty."""
    rng = np.random.default_rng(0)
    probabilities = np.concatenate([rng.uniform(size=50) ** 3, [0, 0.1, 0.3, 0.5, 0.7, 1]])
    labels = rng.integers(0, 2, len(probabilities))
    for bins in (2, 3, 10, 100):
        table = scores.calibration(labels, probabilities, bins)
        observed, predicted = calibration_curve(labels, probabilities, n_bins=bins)
        assert np.allclose(table["observed"], observed, atol=1e-6)
        assert np.allclose(table["predicted"], predicted, atol=1e-6)
        assert table["images"].sum() == len(labels)
        whole = table["observed"] * table["images"]
        assert np.allclose(whole, whole.round(), atol=1e-3), "a share of so many images"
    constant = scores.calibration(labels, np.full(len(labels), 0.5), 10)
    assert constant["images"].tolist() == [len(labels)]


def test_confusions_are_counted():
    table = scores.confusion(np.array([0, 0, 0, 1]), np.array([0.1, 0.5, 0.9, 0.7]), CLASSES)
    assert table.to_dict("list") == {
        "actual": ["grey wolf", "grey wolf", "fox", "fox"],
        "predicted": ["grey wolf", "fox", "grey wolf", "fox"],
        "images": [1, 2, 0, 1],
    }


def test_each_class_has_its_own_mistakes():
    result = scores.score(
        np.array([0, 0, 0, 1]), np.array([0.1, 0.5, 0.9, 0.7]), CLASSES, 0.95, 10
    )
    found = {name: result[name] for name in list(result)[-4:]}
    assert found == {
        "grey wolf_right": 1,
        "grey wolf_wrong": 2,
        "fox_right": 1,
        "fox_wrong": 0,
    }


def test_a_sure_mistake_costs_what_keras_says():
    result = scores.score(np.array([0, 1]), np.array([1.0, 1.0]), CLASSES, 0.95, 10)
    assert result["loss"] == pytest.approx(-np.log(1e-7) / 2, rel=1e-5)


def test_one_class_only_predicted_gives_numbers():
    result = scores.score(LABELS, np.full(8, 0.1), CLASSES, 0.95, 10)
    assert result["precision"] == result["f1"] == 0.0


def test_mcnemar_against_known_p_values():
    """6 against 1 discordant: the exact two-sided p is 16/128 = 0.125."""
    label = np.ones(20, int)
    right = {
        "train_basic": [1] * 6 + [0] * 1 + [1] * 13,
        "train_augmented": [0] * 6 + [1] * 1 + [1] * 13,
        "train_inception": [1] * 20,
    }
    table = pd.DataFrame({name: np.where(marks, 0.9, 0.1) for name, marks in right.items()})
    table["label"] = label
    tests = significance.mcnemar_tests(table, MODELS, 0.05)
    first = tests["train_basic/train_augmented"]
    assert (first["only_first"], first["only_second"], first["p"]) == (6, 1, 0.125)
    # Sorted, the p-values are 0.03125, 0.125 and 1: Holm multiplies them by 3, 2 and 1.
    assert first["p_holm"] == 0.25
    assert tests["train_augmented/train_inception"]["p_holm"] == pytest.approx(0.09375, abs=1e-5)
    assert tests["train_basic/train_inception"]["p_holm"] == 1.0
    assert not any(test["differ"] for test in tests.values())


def test_the_p_values_are_scipys():
    rng = np.random.default_rng(0)
    for images in (1, 2, 7, 500, 5000):
        table = pd.DataFrame(rng.uniform(size=(images, 3)), columns=MODELS)
        table["label"] = rng.integers(0, 2, images)
        for test in significance.mcnemar_tests(table, MODELS, 0.05).values():
            one, other = test["only_first"], test["only_second"]
            p = binomtest(one, one + other).pvalue if one + other else 1.0
            assert test["p"] == float(f"{p:.4g}")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_models_is_tested_in_pairs(count):
    names = [f"train_{number}" for number in range(count)]
    table = pd.DataFrame({"label": [0, 1], **{name: [0.1, 0.9] for name in names}})
    tests = significance.mcnemar_tests(table, names, 0.05)
    assert list(tests) == [f"{one}/{other}" for one, other in combinations(names, 2)]


def test_the_difference_between_two_models_has_the_published_interval():
    """26 and 4 of 48: 0.2548 to 0.6251, the example of `ci.prop.ps` in R's statpsych."""
    low, high = significance.difference_interval(26, 4, 48, 0.95)
    assert low == pytest.approx(0.2548067, abs=1e-7)
    assert high == pytest.approx(0.6251932, abs=1e-7)
    assert significance.difference_interval(4, 26, 48, 0.95) == pytest.approx((-high, -low))


def test_where_models_differ_the_interval_of_the_difference_leaves_zero_out():
    for fewer, more in product(range(15), range(45)):
        if more > fewer and binomtest(more, more + fewer).pvalue < 0.05:
            for images in (more + fewer, 500, 5000):
                assert significance.difference_interval(more, fewer, images, 0.95)[0] > 0
