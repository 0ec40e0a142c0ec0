"""Which images show what a model does: labels and predictions go in, places in them come out."""

import numpy as np


def first_of_each(labels: np.ndarray, count: int) -> np.ndarray:
    """Take the first images, half of them cats; fewer where there are fewer.

    Args:
        labels: 0 cat, 1 dog, N.
        count: how many, an even number.

    Returns:
        Places in `labels`, the cats first.
    """
    return _first_of_each(np.arange(len(labels)), labels, count)


def worst_mistakes(labels: np.ndarray, probabilities: np.ndarray, count: int) -> np.ndarray:
    """Take the images on which the model was surest and wrong.

    Args:
        labels: 0 cat, 1 dog, N.
        probabilities: P(dog), N.
        count: how many; fewer where there are fewer mistakes.

    Returns:
        Places in `labels`, the worst first.
    """
    ranked = np.argsort(-_error(labels, probabilities), kind="stable")
    return ranked[~_right(labels, probabilities)[ranked]][:count]


def best_hits(labels: np.ndarray, probabilities: np.ndarray, count: int) -> np.ndarray:
    """Take the images on which the model was surest and right, half of them cats.

    Args:
        labels: 0 cat, 1 dog, N.
        probabilities: P(dog), N.
        count: how many, an even number; fewer where there are fewer hits of a class.

    Returns:
        Places in `labels`, the cats first, of each class the surest first.
    """
    ranked = np.argsort(_error(labels, probabilities), kind="stable")
    return _first_of_each(ranked[_right(labels, probabilities)[ranked]], labels, count)


def _error(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    return np.abs(probabilities - labels)


def _right(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    return (probabilities >= 0.5) == labels


def _first_of_each(places: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    return np.concatenate([places[labels[places] == label][: count // 2] for label in (0, 1)])
