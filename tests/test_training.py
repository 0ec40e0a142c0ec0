from catsdogs import runtime, training

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("tensorflow")


@pytest.mark.parametrize("name", ["Adam", "RMSprop", "SGD"])
def test_one_pass_over_large_weights_is_the_optimizers_own_formula(name, monkeypatch):
    import keras
    import tensorflow as tf

    monkeypatch.setattr(training, "LARGE", 32)
    compiled = []
    function = tf.function

    def spy(*arguments, **options):
        compiled.append(options.get("jit_compile"))
        return function(*arguments, **options)

    monkeypatch.setattr(tf, "function", spy)
    images = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
    labels = (images[:, 0] > 0).astype("float32")
    own = getattr(keras.optimizers, name)
    weights = []
    for optimizer in (own, training._in_one_pass(own)):
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [keras.Input((8,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1, "sigmoid")]
        )
        model.compile(optimizer(0.05), "binary_crossentropy")
        for _ in range(10):
            model.train_on_batch(images, labels)
        weights.append(model.get_weights())
    assert 1 <= compiled.count(True) <= 2, "one kernel is large; a step may be traced twice"
    for one, other in zip(*weights, strict=True):
        assert np.allclose(one, other, atol=1e-6)


def test_memory_is_kept_and_released_anywhere(monkeypatch):
    """Also where the C library has no such functions."""
    runtime.keep_memory()
    runtime.release_memory()
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda _: object())
    runtime.keep_memory()
    runtime.release_memory()


def test_the_last_bits_name_the_processor_and_the_packages():
    pinned = runtime.Runtime(
        threads=3, onednn=True, cpu_isa="AVX2", rehearsal=1.0, checkpoint_steps=1
    )
    bits = runtime.last_bits(pinned)
    assert (bits["threads"], bits["onednn"], bits["cpu_isa"]) == (3, True, "AVX2")
    assert bits["processor"].strip()
    assert set(bits["packages"]) == {"tensorflow", "keras", "numpy", "cv2"}
    assert runtime.last_bits(pinned.model_copy(update={"checkpoint_steps": 9})) == bits
