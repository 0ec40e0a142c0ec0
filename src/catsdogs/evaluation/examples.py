"""Which images best show what a model does. All functions return places in `labels`."""

import numpy as np


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Take the first images, half of each class and the first class first.

    Args:
        labels: 0 or 1, N.
        count: how many, an even number; fewer if a class has fewer.
    """
    return _half_of_each(np.arange(len(labels)), labels, count)


def worst_mistakes(labels: np.ndarray, probabilities: np.ndarray, count: int) -> np.ndarray:
    """Take the images where the model was surest and wrong, the worst first.

    Args:
        labels: 0 or 1, N.
        probabilities: P(second class), N.
        count: how many; fewer if there are fewer mistakes.
    """
    ranked = np.argsort(-np.abs(probabilities - labels), kind="stable")
    return ranked[~_right(labels, probabilities)[ranked]][:count]


def best_hits(labels: np.ndarray, probabilities: np.ndarray, count: int) -> np.ndarray:
    """Take the images where the model was surest and right, half of each class, the first first.

    Args:
        labels: 0 or 1, N.
        probabilities: P(second class), N.
        count: how many, an even number; fewer if a class has fewer hits.
    """
    ranked = np.argsort(np.abs(probabilities - labels), kind="stable")
    return _half_of_each(ranked[_right(labels, probabilities)[ranked]], labels, count)


def _right(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    return (probabilities >= 0.5) == labels


def _half_of_each(places: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    return np.concatenate([places[labels[places] == label][: count // 2] for label in (0, 1)])
