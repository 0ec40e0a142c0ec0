"""How good predictions are: scores and curves. The second class is positive, 0.5 the threshold."""

from itertools import product

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn import metrics
from sklearn.calibration import calibration_curve

COMPARED = ("accuracy", "loss", "roc_auc")  # what people compare models by
DIGITS = 6  # of every number that is written
PROBABILITY_DIGITS = 9  # of predictions; more than the cross-entropy tells apart
CLIP = 1e-7  # how sure a prediction may be, as in Keras' own cross-entropy


def score(
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: tuple[str, str],
    confidence: float,
    bins: int,
) -> dict[str, float]:
    """Compute all scores of a model.

    Args:
        labels: 0 or 1, N.
        probabilities: P(1), N.
        classes: the names of 0 and 1.
        confidence: of the accuracy's Wilson interval, between 0 and 1.
        bins: of the calibration error.
    """
    predicted = probabilities >= 0.5
    right = int((predicted == labels).sum())
    interval = binomtest(right, len(labels)).proportion_ci(confidence, method="wilson")
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        labels, predicted, average="binary", zero_division=0.0
    )
    counts = metrics.confusion_matrix(labels, predicted, labels=[0, 1])
    numbers = {
        "accuracy": right / len(labels),
        "accuracy_low": interval.low,
        "accuracy_high": interval.high,
        "loss": metrics.log_loss(labels, np.clip(probabilities, CLIP, 1 - CLIP)),
        "roc_auc": metrics.roc_auc_score(labels, probabilities),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "brier": metrics.brier_score_loss(labels, probabilities),
        "calibration_error": calibration_error(labels, probabilities, bins),
    }
    found = {name: round(float(value), DIGITS) for name, value in numbers.items()}
    for label, name in enumerate(classes):
        found |= {
            f"{name}_right": int(counts[label, label]),
            f"{name}_wrong": int(counts[label, 1 - label]),
        }
    return found


def calibration(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> pd.DataFrame:
    """Compare predicted with observed shares of the second class, in bins of equal width.

    Returns:
        One row per bin that holds images: `predicted`, the mean probability; `observed`, the
        share; `images`, their number.
    """
    observed, predicted = calibration_curve(labels, probabilities, n_bins=bins)
    edges = np.linspace(0, 1, bins + 1)
    # calibration_curve returns no counts. It bins in this way: an edge belongs to the bin below.
    # np.histogram puts it into the bin above.
    images = np.bincount(np.searchsorted(edges[1:-1], probabilities))
    columns = {"predicted": predicted, "observed": observed, "images": images[images > 0]}
    return pd.DataFrame(columns).round(DIGITS)


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> float:
    """The expected calibration error: the mean gap of the bins, weighted by their images.

    Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015.
    """
    table = calibration(labels, probabilities, bins)
    gaps = (table["predicted"] - table["observed"]).abs()
    return float(np.average(gaps, weights=table["images"]))


def confusion(
    labels: np.ndarray, probabilities: np.ndarray, classes: tuple[str, str]
) -> pd.DataFrame:
    """Count the `images` of each `actual` class that are `predicted` as each class."""
    counts = metrics.confusion_matrix(labels, probabilities >= 0.5, labels=[0, 1])
    table = pd.DataFrame(product(classes, classes), columns=["actual", "predicted"])
    return table.assign(images=counts.ravel())


def roc(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """The corners of the ROC curve: `false_positive_rate`, `true_positive_rate`."""
    false_positive, true_positive, _ = metrics.roc_curve(labels, probabilities)
    columns = {"false_positive_rate": false_positive, "true_positive_rate": true_positive}
    return pd.DataFrame(columns).round(DIGITS)


def precision_recall(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """The corners of the precision-recall curve: `recall`, `precision`."""
    precision, recall, _ = metrics.precision_recall_curve(
        labels, probabilities, drop_intermediate=True
    )
    return pd.DataFrame({"recall": recall, "precision": precision}).round(DIGITS)
