"""How good predictions are: labels and probabilities go in, numbers and curves come out."""

from catsdogs.layout import CLASSES

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn import metrics as sklearn_metrics

DIGITS = 6  # of every number that is written
PROBABILITY_DIGITS = 9  # of P(dog); more than the cross-entropy tells apart
CLIP = 1e-7  # how sure a prediction may be, as in Keras' own cross-entropy


def score(
    labels: np.ndarray, probabilities: np.ndarray, confidence: float, bins: int
) -> dict[str, float]:
    """Score predictions; dog is the positive class, 0.5 the threshold.

    Args:
        labels: 0 cat, 1 dog, N.
        probabilities: P(dog), N.
        confidence: of the accuracy's Wilson interval, between 0 and 1.
        bins: of the calibration error.
    """
    predicted = probabilities >= 0.5
    right = int((predicted == labels).sum())
    interval = binomtest(right, len(labels)).proportion_ci(confidence, method="wilson")
    precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(
        labels, predicted, average="binary", zero_division=0.0
    )
    (cat_cat, cat_dog), (dog_cat, dog_dog) = sklearn_metrics.confusion_matrix(
        labels, predicted, labels=[0, 1]
    )
    numbers = {
        "accuracy": right / len(labels),
        "accuracy_low": interval.low,
        "accuracy_high": interval.high,
        "loss": sklearn_metrics.log_loss(labels, np.clip(probabilities, CLIP, 1 - CLIP)),
        "roc_auc": sklearn_metrics.roc_auc_score(labels, probabilities),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "brier": sklearn_metrics.brier_score_loss(labels, probabilities),
        "calibration_error": calibration_error(labels, probabilities, bins),
    }
    counts = {
        "cats_right": cat_cat,
        "cats_wrong": cat_dog,
        "dogs_right": dog_dog,
        "dogs_wrong": dog_cat,
    }
    return {name: round(float(value), DIGITS) for name, value in numbers.items()} | {
        name: int(value) for name, value in counts.items()
    }


def calibration(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> pd.DataFrame:
    """Compare what is predicted with what is seen, in bins of equal width.

    Returns:
        One row per bin that holds images: `predicted`, the mean P(dog); `observed`, the share of
        dogs; `images`, their number.
    """
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    table = pd.DataFrame({"place": place, "predicted": probabilities, "observed": labels})
    grouped = table.groupby("place").agg(
        predicted=("predicted", "mean"), observed=("observed", "mean"), images=("observed", "size")
    )
    return grouped.reset_index(drop=True).round(DIGITS)


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> float:
    """The expected calibration error: the bins' gaps, weighted by their images.

    Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015.
    """
    table = calibration(labels, probabilities, bins)
    gaps = (table["predicted"] - table["observed"]).abs()
    return float((gaps * table["images"]).sum() / table["images"].sum())


def confusion(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """What each image is and what it is taken for, by the classes' names."""
    predicted = (probabilities >= 0.5).astype(int)
    return pd.DataFrame(
        {"actual": np.take(CLASSES, labels), "predicted": np.take(CLASSES, predicted)}
    )


def roc(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """The ROC curve's corners: `false_positive_rate`, `true_positive_rate`; dog is positive."""
    false_positive, true_positive, _ = sklearn_metrics.roc_curve(labels, probabilities)
    columns = {"false_positive_rate": false_positive, "true_positive_rate": true_positive}
    return pd.DataFrame(columns).round(DIGITS)


def precision_recall(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """The precision-recall curve's corners: `recall`, `precision`; dog is positive."""
    precision, recall, _ = sklearn_metrics.precision_recall_curve(
        labels, probabilities, drop_intermediate=True
    )
    return pd.DataFrame({"recall": recall, "precision": precision}).round(DIGITS)
