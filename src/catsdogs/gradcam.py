"""Grad-CAM: a model and images go in, where the model looked comes out.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization", ICCV 2017, https://arxiv.org/abs/1610.02391, equations 1 and 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras


def heat(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Show what speaks for each image's predicted class, in the last features that have a place.

    A feature counts by its mean gradient over all places: the heat is wherever features are found
    that speak for the class on the whole, also where the dense layer above does not heed them.

    Args:
        model: a chain of layers that ends in a dense layer with one sigmoid.
        images: RGB, 0-255, N×size×size×3; N may be 0.

    Returns:
        float32, N×rows×columns of those features, 0…1; all 0 where nothing speaks for the class.
    """
    import tensorflow as tf

    if not len(images):  # which a convolution refuses
        return np.empty((0, 1, 1), np.float32)
    signal = tf.convert_to_tensor(images, tf.float32)
    chain = [layer for layer in model.layers if layer.__class__.__name__ != "InputLayer"]
    flat = next(place for place, layer in enumerate(chain) if len(layer.output.shape) == 2)
    for layer in chain[:flat]:
        signal = layer(signal, training=False)
    features = signal
    with tf.GradientTape() as tape:
        tape.watch(features)
        for layer in chain[flat:-1]:
            signal = layer(signal, training=False)
        # Before the sigmoid, whose gradient is lost where the model is sure.
        evidence_for_dog = signal @ chain[-1].kernel + chain[-1].bias
        evidence = tf.abs(evidence_for_dog)
    gradients = tape.gradient(evidence, features)
    weights = tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
    maps = tf.nn.relu(tf.reduce_sum(weights * features, axis=-1)).numpy()
    return maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-12)
