"""Optimizers and learning rates: Keras' own, with what a training here asks besides."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import keras
    import tensorflow as tf
    from keras import KerasTensor

Name = Literal["adam", "rmsprop", "sgd", "muon"]
Schedule = Literal["constant", "cosine", "linear"]

LARGE = 1_000_000  # weights; for fewer, compiling the update takes longer than it saves
CHANNELS = 3  # of an image
EPSILON = 1e-12  # against a division by 0


def optimizer(name: Name) -> type[keras.Optimizer]:
    """Return an optimizer's class."""
    import keras

    return muon() if name == "muon" else single_pass(type(keras.optimizers.get(name)))


def muon() -> type[keras.optimizers.Muon]:
    """Return Keras' Muon, which takes the kernels of convolutions for matrices, too.

    A kernel of height × width × in × out is a matrix of (height · width · in) × out. As in Keller
    Jordan's original (https://kellerjordan.github.io/posts/muon), hidden weights alone are learned
    so, and Adam learns the rest at the same rate: biases, a convolution that sees pixels, and the
    last layer. The update is scaled as in Moonlight (Liu et al., 2025, arXiv:2502.16982), by
    0.2 · √max(rows, columns). No weight decays.
    """
    import keras
    from keras import ops

    class Muon(keras.optimizers.Muon):
        def __init__(self, learning_rate: float, **options: float) -> None:
            super().__init__(learning_rate, weight_decay=None, adam_weight_decay=None, **options)

        def _should_use_adamw(self, variable: keras.Variable) -> bool:
            is_first = len(variable.shape) > 2 and variable.shape[-2] == CHANNELS
            return len(variable.shape) < 2 or variable.shape[-1] == 1 or is_first

        # Keras' own takes every step with the whole matrix X. Each multiplies X by a polynomial of
        # X·Xᵀ, so the product of all of them comes from X·Xᵀ alone, the smaller of the two: that
        # takes a fourth of the time.
        def zeropower_via_newtonschulz5(self, x: KerasTensor, steps: int) -> KerasTensor:
            matrix = ops.reshape(x, (-1, x.shape[-1]))
            is_tall = matrix.shape[0] > matrix.shape[1]
            turned = ops.transpose(matrix)
            square = turned @ matrix if is_tall else matrix @ turned
            size = ops.trace(square)  # the squared norm of X
            square, one = square / (size + EPSILON), ops.eye(square.shape[0], dtype=square.dtype)
            product = one
            for _ in range(steps):
                now = product @ square @ product
                product = (
                    self.muon_a * one + self.muon_b * now + self.muon_c * now @ now
                ) @ product
            product = product / (ops.sqrt(size) + EPSILON)
            return ops.reshape(matrix @ product if is_tall else product @ matrix, x.shape)

        def lr_adjust(self, x: KerasTensor) -> KerasTensor:
            rows, columns = math.prod(x.shape[:-1]), x.shape[-1]
            return x * self.rms_rate * math.sqrt(max(rows, columns))

    return Muon


def single_pass(optimizer: type[keras.Optimizer]) -> type[keras.Optimizer]:
    """Make an optimizer read and write large weights once per step, as JAX does by itself.

    Keras' own reads and writes them once for every operation of its formula. XLA compiles the same
    formula into one loop: a step of Inception's head takes little more than half the time.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        return optimizer
    import tensorflow as tf

    class SinglePass(optimizer):
        def update_step(
            self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: keras.Variable
        ) -> None:
            update = super().update_step
            if math.prod(variable.shape) >= LARGE:
                compiled = tf.function(
                    lambda gradient: update(gradient, variable, learning_rate),
                    jit_compile=True,
                    autograph=False,
                )
                compiled(gradient)
            else:
                update(gradient, variable, learning_rate)

    return SinglePass


def learning_rate(
    peak: float, steps: int, warmup: int, schedule: Schedule, decay_share: float
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """Return the learning rate of a phase: a number, or a function of the phase's step.

    Args:
        peak: the highest rate.
        steps: of the phase.
        warmup: steps in which the rate rises linearly from 0.
        schedule: `constant`, or how it falls to 0 at the last step: along a line or half a cosine.
        decay_share: the last share of the steps, in which it falls. It rises to the peak first.
    """
    import keras
    from keras import ops

    if schedule == "constant" and not warmup:
        return peak
    falling = min(decay_share * steps, steps - warmup)

    # Keras has a rise before a cosine, and none of a constant rate between a rise and a fall.
    class Rate(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step: int | KerasTensor) -> KerasTensor:
            step = ops.cast(step, "float32")
            rise = ops.minimum(step / warmup, 1.0) if warmup else 1.0
            left = ops.clip((steps - step) / falling, 0.0, 1.0)  # 1 before the fall, 0 at the end
            fall = {"constant": 1.0, "linear": left, "cosine": (1.0 - ops.cos(math.pi * left)) / 2}
            return peak * rise * fall[schedule]

        def get_config(self) -> dict[str, float]:
            return {}

    return Rate()
