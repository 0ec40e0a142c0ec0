"""Whether two models differ on the same images, and by how much."""

import math
from collections.abc import Sequence
from itertools import combinations
from statistics import NormalDist
from typing import Any

import pandas as pd


def mcnemar_tests(
    predictions: pd.DataFrame, models: Sequence[str], significance: float
) -> dict[str, dict[str, Any]]:
    """Run McNemar's exact test on each pair of models.

    The null hypothesis: of the images that only one of two models gets right, each is equally
    likely to be the one's or the other's (McNemar 1947). Holm's step-down method corrects the
    p-values for the number of pairs (Holm 1979).

    Args:
        predictions: one row per image, with its `label` and each model's P(second class).
        models: the columns to compare.
        significance: two models differ if the corrected p-value is below this.

    Returns:
        For each pair `<stage>/<stage>`: how many images only the first and only the second gets
        right, the p-value before and after the correction, and whether the two differ.
    """
    right = {name: (predictions[name] >= 0.5) == predictions["label"] for name in models}
    tests = {}
    for one, other in combinations(models, 2):
        only_one = int((right[one] & ~right[other]).sum())
        only_other = int((right[other] & ~right[one]).sum())
        p = _binomial_test(only_one, only_other)
        tests[f"{one}/{other}"] = {"only_first": only_one, "only_second": only_other, "p": p}
    corrected = 0.0
    ranked = sorted(tests.values(), key=lambda test: test["p"])
    for rank, test in enumerate(ranked):
        corrected = min(1.0, max(corrected, test["p"] * (len(ranked) - rank)))
        test["p"] = float(f"{test['p']:.4g}")
        test["p_holm"] = float(f"{corrected:.4g}")
        test["differ"] = corrected < significance
    return tests


def _binomial_test(heads: int, tails: int) -> float:
    """The probability that a fair coin falls at least as unevenly as this.

    `scipy.stats.binomtest` gives the same, but its import would make `compare` start 0.6 s later.
    """
    tosses = heads + tails
    as_uneven = sum(math.comb(tosses, count) for count in range(min(heads, tails) + 1))
    return min(1.0, 2 * as_uneven / 2**tosses)


def difference_interval(
    only_first: int, only_second: int, images: int, confidence: float
) -> tuple[float, float]:
    """Compute the interval of the first model's accuracy minus the second's.

    Wald's interval for pairs, with one image added to each count (Bonett and Price 2012).

    Args:
        only_first: how many images only the first model gets right.
        only_second: how many images only the second model gets right.
        images: how many images there are.
        confidence: between 0 and 1.

    Returns:
        The lower and the upper bound, between -1 and 1.
    """
    first, second = (only_first + 1) / (images + 2), (only_second + 1) / (images + 2)
    deviation = math.sqrt((first + second - (first - second) ** 2) / (images + 2))
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * deviation
    return max(-1.0, first - second - half), min(1.0, first - second + half)
