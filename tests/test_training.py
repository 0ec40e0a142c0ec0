from dataclasses import replace
from types import SimpleNamespace

from catsdogs import runtime
from catsdogs.training import loop, optimizers
from catsdogs.training.checkpoints import State

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("tensorflow")


@pytest.mark.parametrize("name", ["Adam", "RMSprop", "SGD"])
def test_one_pass_over_large_weights_is_the_optimizers_own_formula(name, monkeypatch):
    import keras
    import tensorflow as tf

    monkeypatch.setattr(optimizers, "LARGE", 32)
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
    for optimizer in (own, optimizers.single_pass(own)):
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


def settings(**changes):
    given = {"schedule": "constant", "decay_share": 1.0, "warmup_steps": 0}
    given |= {
        "steps_per_epoch": 25,
        "epochs": 4,
        "learning_rate": 0.5,
        "optimizer": "sgd",
        "weight_averaging": 0.0,
    }
    return SimpleNamespace(**given | changes)


@pytest.mark.parametrize(
    ("warmup", "schedule", "share", "rates"),
    [
        (0, "constant", 1.0, {0: 0.5, 99: 0.5}),
        (0, "cosine", 1.0, {0: 0.5, 50: 0.25, 75: 0.073223, 100: 0.0}),
        (20, "constant", 1.0, {0: 0.0, 10: 0.25, 20: 0.5, 99: 0.5}),
        (20, "cosine", 1.0, {0: 0.0, 10: 0.25, 20: 0.5, 60: 0.25, 100: 0.0}),
        (0, "linear", 1.0, {0: 0.5, 50: 0.25, 100: 0.0}),
        (0, "linear", 0.4, {0: 0.5, 60: 0.5, 80: 0.25, 90: 0.125, 100: 0.0}),
        (20, "linear", 0.9, {10: 0.25, 20: 0.5, 60: 0.25, 100: 0.0}),
        (20, "cosine", 0.2, {10: 0.25, 50: 0.5, 80: 0.5, 90: 0.25, 100: 0.0}),
    ],
)
def test_the_rate_of_each_step(warmup, schedule, share, rates):
    rate = optimizers.learning_rate(0.5, 100, warmup, schedule, share)
    for step, wanted in rates.items():
        found = rate(step) if callable(rate) else rate
        assert float(found) == pytest.approx(wanted, abs=1e-6), step


def test_a_second_phase_has_a_rate_of_its_own(run):
    second = SimpleNamespace(epochs=2, learning_rate=0.1)
    fitted = run(schedule="cosine")
    seen = []
    for phase in (None, second):
        model = small_model()
        loop.compile_model(model, fitted.settings, phase or fitted.settings)
        rate = model.optimizer._learning_rate
        seen.append([float(rate(step)) for step in (0, 25, 50)])
    assert seen[1] == pytest.approx([0.1, 0.05, 0], abs=1e-6)
    assert seen[0][2] == pytest.approx(0.25, abs=1e-6)


def orthogonal(matrix):
    """Five of Newton and Schulz's steps, as Keller Jordan has them."""
    a, b, c = 3.4445, -4.7750, 2.0315
    turned = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    turned = turned / (np.linalg.norm(turned) + 1e-7)
    for _ in range(5):
        square = turned @ turned.T
        turned = a * turned + (b * square + c * square @ square) @ turned
    return turned.T if matrix.shape[0] > matrix.shape[1] else turned


def test_muon_learns_hidden_kernels_as_matrices_and_adam_the_rest():
    import keras
    from keras import layers

    def build():
        keras.utils.set_random_seed(1)
        return keras.Sequential(
            [
                keras.Input((6, 6, 3)),
                layers.Conv2D(4, 3, activation="relu"),  # sees pixels
                layers.Conv2D(5, 2, activation="relu"),  # 16 rows, 5 columns
                layers.Flatten(),
                layers.Dense(60, activation="relu"),  # 45 rows, 60 columns
                layers.Dense(1, activation="sigmoid"),
            ]
        )

    rng, rate = np.random.default_rng(0), 0.01
    muon, adam = build(), build()
    muon.optimizer, adam.optimizer = optimizers.muon()(rate), keras.optimizers.Adam(rate)
    weights = [variable.numpy().astype("float64") for variable in muon.trainable_variables]
    hidden = [2, 4]
    momenta = {i: np.zeros_like(weights[i]) for i in hidden}
    for _ in range(3):
        gradients = [rng.normal(size=weight.shape).astype("float32") for weight in weights]
        for model in (muon, adam):
            model.optimizer.apply(
                [keras.ops.convert_to_tensor(each) for each in gradients],
                model.trainable_variables,
            )
        for i in hidden:
            momenta[i] = 0.95 * momenta[i] + gradients[i]
            matrix = (gradients[i] + 0.95 * momenta[i]).reshape(-1, weights[i].shape[-1])
            step = orthogonal(matrix) * 0.2 * np.sqrt(max(matrix.shape))
            weights[i] -= rate * step.reshape(weights[i].shape)
    for i, (one, other) in enumerate(
        zip(muon.trainable_variables, adam.trainable_variables, strict=True)
    ):
        wanted = weights[i] if i in hidden else other.numpy()
        assert np.allclose(one.numpy(), wanted, atol=2e-5), one.path


class Steps:
    """What a run needs of batches: eight numbers whose first decides."""

    shape, dtype = (8,), np.float32

    def __len__(self):
        return 2

    def __call__(self, step, part=None):
        inputs = np.random.default_rng(step).normal(size=(16, 8)).astype("float32")
        return inputs, (inputs[:, 0] > 0).astype("float32")


@pytest.fixture
def nowhere(monkeypatch):
    """A training tells MLflow nothing."""
    silent = SimpleNamespace(open=lambda *_: None, log_epoch=lambda *_: None)
    monkeypatch.setattr(loop, "LiveRun", lambda *_: silent)


def begin(checkpoint, every, **changes):
    given = settings(**changes)
    pinned = runtime.Runtime("tensorflow", "float32", 2, True, "AVX2", every)
    return loop.Training("train_basic", given, given, pinned, checkpoint)


@pytest.fixture
def run(nowhere):
    """Makes a training that keeps no checkpoint."""
    checkpoint = SimpleNamespace(load=lambda: None, save=lambda _: None, name="")
    return lambda **changes: begin(checkpoint, 10, **changes)


def small_model():
    import keras

    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(1, "sigmoid")])


def test_the_kept_weights_are_their_moving_average(run):
    """Which the validation looks at, while the training goes on from the last ones."""
    import keras

    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(self.model.layers[0].kernel.numpy())

    ways = {}
    for momentum in (0.0, 0.9):
        model, fitted = small_model(), run(weight_averaging=momentum)
        fit = model.fit
        model.fit = lambda *given, callbacks, fit=fit, **how: fit(
            *given, callbacks=[*callbacks, Watch()], **how
        )
        fitted.fit(model, Steps(), Steps())
        ways[momentum], seen = seen, []
        kept = model.layers[0].kernel.numpy()
    for last, averaged in zip(*ways.values(), strict=True):
        assert np.array_equal(last, averaged), "averaging leaves the training alone"
    average = ways[0.9][0]
    for kernel in ways[0.9][1:]:
        average = 0.9 * average + 0.1 * kernel
    assert np.allclose(kept, average, atol=1e-5)
    assert not np.allclose(kept, ways[0.9][-1], atol=1e-3)
    inputs, labels = (np.concatenate(each) for each in zip(Steps()(0), Steps()(1), strict=True))
    right = (model.predict(inputs, verbose=0)[:, 0] > 0.5) == labels
    assert fitted.history[-1]["val_accuracy"] == pytest.approx(right.mean())


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "rmsprop"},
        {"optimizer": "muon", "schedule": "linear", "decay_share": 0.3},
        {"optimizer": "adam", "schedule": "cosine", "warmup_steps": 2, "weight_averaging": 0.5},
    ],
)
def test_a_training_that_dies_at_any_step_goes_on_as_if_it_had_not(nowhere, changes):
    """In either phase, at the end of an epoch or within, with dropout."""
    import keras

    class Mortal:
        """A checkpoint that ends the training once a step has been saved."""

        name, state, last = "", None, 99

        def load(self):
            return self.state

        def save(self, state):
            values = [np.array(variable.numpy()) for variable in state.variables]
            history = list(state.progress["history"])
            self.state = State(values, state.progress | {"history": history})
            if state.progress["step"] == self.last:
                raise KeyboardInterrupt

    def train(checkpoint):
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, "relu"),
                keras.layers.Dropout(0.5),
                keras.layers.Dense(1, "sigmoid"),
            ]
        )
        how = {"steps_per_epoch": 3, "epochs": 2, "learning_rate": 0.05}
        fitted = begin(checkpoint, 1, **how, **changes)
        fitted.fit(model, Steps(), Steps())
        fitted.fit(model, Steps(), Steps(), SimpleNamespace(epochs=1, learning_rate=0.01))
        weights = [each.numpy().tobytes() for each in model.weights]
        return weights, fitted.history

    undisturbed = train(Mortal())
    for last in range(1, 10):
        checkpoint = Mortal()
        checkpoint.last = last
        with pytest.raises(KeyboardInterrupt):
            train(checkpoint)
        checkpoint.last = 99
        assert train(checkpoint) == undisturbed, f"after step {last}"


def test_a_resumed_training_counts_what_was_spent_before_it(nowhere):
    progress = {"step": 3, "history": [], "phase": 1, "cpu_seconds": 1000.0}
    checkpoint = SimpleNamespace(load=lambda: State([], progress))
    assert 1000 < begin(checkpoint, 10).cpu_seconds < 2000


def test_a_second_phase_goes_on_with_the_steps_and_the_epochs(run):
    fitted = run(epochs=2)
    asked = []

    class Noted(Steps):
        def __call__(self, step, part=None):
            asked.append(int(step))
            return super().__call__(step)

    model = small_model()
    fitted.fit(model, Noted(), Steps())
    fitted.fit(model, Noted(), Steps(), SimpleNamespace(epochs=1, learning_rate=0.0))
    assert sorted(asked) == list(range(75))
    assert (fitted.step, len(fitted.history)) == (75, 3)
    assert model.optimizer.learning_rate == 0


def test_the_last_bits_name_the_processor_and_the_packages():
    pinned = runtime.Runtime("tensorflow", "float32", 3, True, "AVX", checkpoint_steps=1)
    bits = runtime.fingerprint(pinned)
    assert (bits["threads"], bits["onednn"], bits["precision"]) == (3, True, "float32")
    assert bits["processor"].strip()
    assert set(bits["packages"]) == {"tensorflow", "keras", "numpy", "cv2"}
    assert runtime.fingerprint(replace(pinned, checkpoint_steps=9)) == bits
    for other in ({"precision": "bfloat16"}, {"threads": 2}, {"onednn": False}):
        assert runtime.fingerprint(replace(pinned, **other)) != bits
