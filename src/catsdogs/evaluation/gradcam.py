"""Grad-CAM: where in an image a model finds evidence for its answer.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization", ICCV 2017, https://arxiv.org/abs/1610.02391, equations 1 and 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from catsdogs.stage import UserError

import numpy as np

if TYPE_CHECKING:
    import keras


class GradCam:
    """Grad-CAM of one model, at the last features that everything above them passes through.

    A feature counts by its mean gradient over all places. So a map is bright wherever features
    are found that speak for the answer on the whole, even where the layer above ignores them.

    Args:
        model: a functional or sequential model from N×size×size×3 to P(second class), N×1. It
            ends in a dense layer with one sigmoid. Models may be nested in it.

    Raises:
        UserError: the model ends in something else.
    """

    def __init__(self, model: keras.Model) -> None:
        import keras

        inputs, calls = _flatten(model)
        self.dense, top, output = calls[-1]
        sigmoid = getattr(self.dense, "activation", None) is keras.activations.sigmoid
        if (
            not isinstance(self.dense, keras.layers.Dense)
            or not sigmoid
            or output.shape[1:] != (1,)
        ):
            raise UserError(
                f"the model `{model.name}` ends in {self.dense.name}: "
                'end it in Dense(1, activation="sigmoid")'
            )
        tensors = [inputs, *(output for _, _, output in calls)]
        for tensor in reversed(tensors):
            if len(tensor.shape) == 4 and tensor.shape[1:3] != (1, 1):
                try:
                    self.head = keras.Model(tensor, top)
                except ValueError:  # another branch goes past this tensor
                    continue
                self.features = keras.Model(inputs, tensor)
                break

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Show what speaks for each image's predicted class.

        Args:
            images: RGB, 0-255, N×size×size×3; N may be 0.

        Returns:
            float32, N×rows×columns of the features, 0…1, each map up to its own maximum; all 0
            where nothing speaks for the class.
        """
        import tensorflow as tf

        if not len(images):  # a convolution refuses an empty batch
            return np.empty((0, 1, 1), np.float32)
        features = self.features(images.astype(np.float32), training=False)
        with tf.GradientTape() as tape:
            tape.watch(features)
            # Before the sigmoid, whose gradient vanishes where the model is sure.
            signal = self.head(features, training=False)
            evidence = tf.abs(signal @ self.dense.kernel + self.dense.bias)
        weights = tf.reduce_mean(tape.gradient(evidence, features), axis=(1, 2), keepdims=True)
        maps = tf.nn.relu(tf.reduce_sum(weights * features, axis=-1)).numpy()
        return maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-12)


def _flatten(model: keras.Model) -> tuple[Any, list[tuple[keras.Layer, Any, Any]]]:
    """Rebuild a model's graph with the same layers but no nested models.

    Returns:
        Its input, and for each layer in order: the layer, what goes in, what comes out.
    """
    import keras

    def call(layer: keras.Layer, *inputs: Any, **options: Any) -> Any:
        if isinstance(layer, keras.Model):
            return layer.call(*inputs, **options)  # without a node of its own in the graph
        output = layer(*inputs, **options)
        calls.append((layer, inputs[0], output))
        return output

    calls: list[tuple[keras.Layer, Any, Any]] = []
    nested = True
    while nested:  # each round unpacks one level, the last one finds nothing to unpack
        calls.clear()
        nested = any(isinstance(layer, keras.Model) for layer in model.layers)
        functional = keras.Model(model.inputs, model.outputs)  # as a Sequential is not
        model = keras.models.clone_model(
            functional, clone_function=lambda layer: layer, call_function=call
        )
    return model.inputs[0], calls
