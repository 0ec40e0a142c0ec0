"""Whether models differ and by how much, on the same images: predictions or counts go in."""

import math
from itertools import combinations
from statistics import NormalDist
from typing import Any

from catsdogs import layout

import pandas as pd


def mcnemar_tests(predictions: pd.DataFrame, significance: float) -> dict[str, dict[str, Any]]:
    """McNemar's exact test between each pair of models, on the same images.

    Under the null hypothesis an image that only one of two models gets right is as likely to be
    the one's as the other's (McNemar 1947). The p-values are corrected by Holm's step-down method
    (Holm 1979) for the number of pairs.

    Args:
        predictions: one row per image, with its `label` and each training stage's P(dog).
        significance: below which corrected p-value two models count as different.

    Returns:
        For each pair `<stage>/<stage>`: how many images only the first and only the second gets
        right, the p-value before and after the correction, and whether the two differ.
    """
    right = {name: (predictions[name] >= 0.5) == predictions["label"] for name in layout.TRAININGS}
    tests = {}
    for one, other in combinations(layout.TRAININGS, 2):
        only_one = int((right[one] & ~right[other]).sum())
        only_other = int((right[other] & ~right[one]).sum())
        p = _two_sided(only_one, only_other)
        tests[f"{one}/{other}"] = {"only_first": only_one, "only_second": only_other, "p": p}
    corrected = 0.0
    ranked = sorted(tests.values(), key=lambda test: test["p"])
    for rank, test in enumerate(ranked):
        corrected = min(1.0, max(corrected, test["p"] * (len(ranked) - rank)))
        test["p"] = float(f"{test['p']:.4g}")
        test["p_holm"] = float(f"{corrected:.4g}")
        test["differ"] = corrected < significance
    return tests


def _two_sided(heads: int, tails: int) -> float:
    """How likely a fair coin falls as unevenly as this, or more.

    Counted, because importing `scipy.stats` would take as long as all else that `compare` does.
    """
    tosses = heads + tails
    fewer = sum(math.comb(tosses, count) for count in range(min(heads, tails) + 1))
    return min(1.0, 2 * fewer / 2**tosses)


def difference_interval(
    only_first: int, only_second: int, images: int, confidence: float
) -> tuple[float, float]:
    """The interval of how much more accurate the first of two models is than the second.

    Wald's for pairs, with one image added to each count (Bonett and Price 2012).

    Args:
        only_first: how many images only the first model gets right.
        only_second: how many only the second.
        images: how many there are.
        confidence: between 0 and 1.

    Returns:
        The lower and the upper bound, between -1 and 1.
    """
    first, second = (only_first + 1) / (images + 2), (only_second + 1) / (images + 2)
    deviation = math.sqrt((first + second - (first - second) ** 2) / (images + 2))
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * deviation
    return max(-1.0, first - second - half), min(1.0, first - second + half)
