"""What trainings compute with: instructions, threads, 16 bits, and Keras on JAX."""

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace

from catsdogs import layout, params, runtime
from catsdogs.files import write_json
from catsdogs.runtime import Runtime
from catsdogs.stage import UserError

import numpy as np
import pytest
from conftest import REPOSITORY, run_python
from PIL import Image
from test_interruptions import KILLER, outputs, remove_outputs

ZEN_5 = "sse4_1 avx avx2 avx_vnni avx512dq avx512_vnni avx512_bf16"
NATIVE = Runtime("tensorflow", "float32", 2, True, "native", 1)


@pytest.mark.parametrize(
    ("flags", "cpu_isa", "used"),
    [
        (ZEN_5, "native", "AVX512_CORE_BF16"),
        (ZEN_5, "AVX2", "AVX2"),
        (ZEN_5, "AVX512_CORE_AMX", "AVX512_CORE_BF16"),
        ("sse4_1 avx avx2", "native", "AVX2"),
        ("sse4_1 avx avx2", "AVX512_CORE", "AVX2"),
    ],
)
def test_the_instructions_are_those_that_processor_and_limit_allow(
    flags, cpu_isa, used, monkeypatch
):
    monkeypatch.setattr(runtime, "_processor", {"flags": flags}.get)
    assert replace(NATIVE, cpu_isa=cpu_isa).instructions == used


@pytest.mark.parametrize(
    ("source", "threads", "cpu_isa", "steps"),
    [("sample", 2, "AVX2", 0.13), ("photographs.zip", 5, "native", 1)],
)
def test_drawn_images_have_conditions_of_their_own(
    checkout, monkeypatch, source, threads, cpu_isa, steps
):
    rehearsal = {"steps": 0.13, "threads": 2, "cpu_isa": "AVX2"} if source == "sample" else None
    monkeypatch.chdir(checkout.path)
    write_json(layout.REHEARSAL, rehearsal)
    monkeypatch.setattr(runtime, "_cpu_count", lambda: 5)
    loaded = runtime.load()
    assert (loaded.threads, loaded.cpu_isa, loaded.steps) == (threads, cpu_isa, steps)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="of Linux alone")
def test_native_threads_are_as_many_as_the_process_may_use():
    """As in a container, or under taskset."""
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    code += "from catsdogs import runtime; print(runtime._cpu_count())"
    assert run_python(code) == "1\n"


def test_a_limit_that_forbids_16_bits_is_lifted_for_a_rehearsal_only(checkout, monkeypatch):
    monkeypatch.chdir(checkout.path)
    checkout.change_params({"runtime": {"precision": "bfloat16", "cpu_isa": "AVX2"}})
    write_json(layout.REHEARSAL, {"steps": 1, "threads": 2, "cpu_isa": "AVX2"})
    params.check()
    assert runtime.load().cpu_isa == "native"
    checkout.change_params({"data": {"source": "photographs.zip"}})
    write_json(layout.REHEARSAL, None)
    with pytest.raises(UserError, match=r"bfloat16 needs instructions that runtime.cpu_isa AVX2"):
        params.check()
    checkout.change_params({"runtime": {"cpu_isa": "AVX512_CORE"}})
    params.check()
    assert runtime.load().cpu_isa == "AVX512_CORE"


SHOW_KERAS = """
import os, keras
print("shown", keras.config.image_data_format(), keras.config.floatx(), keras.config.epsilon(),
      keras.config.max_epochs(), keras.config.max_steps_per_epoch(), keras.config.is_nnx_enabled(),
      *sorted(os.environ.keys() & {"XLA_FLAGS", "TF_ENABLE_MKL_NATIVE_FORMAT", "JAX_ENABLE_X64"}))
"""
PIN = "from catsdogs import runtime; runtime.pin(runtime.Runtime('tensorflow', 'float32', 2, {}))"


def test_nothing_that_the_user_has_set_reaches_the_computation(tmp_path):
    written = {"floatx": "float16", "epsilon": 0.1, "image_data_format": "channels_first"}
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras/keras.json").write_text(json.dumps(written | {"backend": "jax"}))
    foreign = {
        "HOME": str(tmp_path),
        "KERAS_BACKEND": "torch",
        "KERAS_MAX_EPOCHS": "1",
        "KERAS_MAX_STEPS_PER_EPOCH": "1",
        "KERAS_NNX_ENABLED": "true",
        "XLA_FLAGS": "--xla_cpu_enable_fast_math=true",
        "TF_ENABLE_MKL_NATIVE_FORMAT": "1",
        "JAX_ENABLE_X64": "1",
    }
    code = PIN.format("True, 'AVX2'") + SHOW_KERAS
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "src")} | foreign
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert said.stdout == "shown channels_last float32 1e-07 None None False\n"
    assert json.loads((tmp_path / ".keras/keras.json").read_text())["epsilon"] == 0.1


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense"])
def test_a_notebooks_backend_draws_no_figure(tmp_path, backend):
    code = "from catsdogs.reporting import figures; from pathlib import Path\n"
    code += "figures.save(figures.new(), Path('figure.png'))"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "src")}
    for number, variables in enumerate(({}, {"MPLBACKEND": backend})):
        subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment | variables, check=True
        )
        (tmp_path / "figure.png").rename(tmp_path / f"{number}.png")
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "1.png").read_bytes()


@pytest.mark.usefixtures("tensorflow")
@pytest.mark.parametrize(("flags", "slow"), [(ZEN_5, False), ("sse4_1 avx avx2", True)])
def test_a_processor_without_16_bits_is_said_to_be_slow(flags, slow, monkeypatch, capsys):
    import keras

    monkeypatch.setattr(runtime, "_pin_tensorflow", lambda _: None)
    monkeypatch.setattr(runtime, "_processor", {"flags": flags}.get)
    runtime.pin(replace(NATIVE, precision="bfloat16"))
    assert keras.config.dtype_policy().name == "mixed_bfloat16"
    assert ("it will be slow" in capsys.readouterr().out) == slow
    runtime.pin(NATIVE)
    assert keras.config.dtype_policy().name == "float32"
    assert not capsys.readouterr().out


def train(copy, stage):
    """Train, undisturbed; again, but killed at its third checkpoint; and go on."""
    said = copy.script(stage, fresh=True).stdout
    unbroken = outputs(copy, stage)
    remove_outputs(copy, stage)
    killer = KILLER.format(name="state.npz", count=3)
    assert copy.script(stage, before=killer, check=False, fresh=True).returncode == -9
    assert "goes on after step 2 of" in copy.script(stage, fresh=True).stdout
    assert outputs(copy, stage) == unbroken
    return said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "precision"),
    [
        ("tensorflow", "bfloat16"),
        ("tensorflow", "float16"),
        ("jax", "float32"),
        ("jax", "bfloat16"),
    ],
)
def test_a_killed_training_goes_on_whatever_it_computes_with(copy, backend, precision, tmp_path):
    """With features from the cache, dropout, averaged weights and a second phase.

    Its model is one of float32 that TensorFlow evaluates and predicts with.
    """
    pytest.importorskip(backend)
    stage = "train_inception"
    how = {"schedule": "cosine", "warmup_steps": 2, "weight_averaging": 0.5}
    how["optimizer"] = "rmsprop" if precision == "float32" else "muon"
    tuned = {"above": "mixed6", "epochs": 1, "learning_rate": 1e-3}
    copy.change_params(
        {
            "runtime": {"backend": backend, "precision": precision},
            stage: how | {"fine_tuning": tuned},
        }
    )
    remove_outputs(copy, stage)
    said = train(copy, stage)
    facts = json.loads((copy.path / layout.facts(stage)).read_text())
    assert facts["steps"] == 9
    words = ["JAX"] * (backend == "jax") + [precision, "2 threads"]
    assert facts["runtime"].startswith(", ".join(words))
    assert f"computes with {facts['runtime']}" in said
    with zipfile.ZipFile(copy.path / layout.model(stage)) as model:
        assert "float16" not in model.read("config.json").decode()
    copy.script("evaluate")
    image = tmp_path / "image.png"
    pixels = np.load(copy.path / layout.PIXELS / layout.shard_name(0))
    table = (copy.path / layout.VALIDATION).read_text().splitlines()
    row = int(table[1].split(",")[table[0].split(",").index("row")])
    Image.fromarray(pixels[row]).save(image)
    predicted = copy.catsdogs("predict", "--model", "inception", str(image)).stdout
    first = (copy.path / layout.PREDICTIONS).read_text().splitlines()
    dog = float(dict(zip(*(line.split(",") for line in first[:2]), strict=True))[stage])
    assert f"{max(dog, 1 - dog):.1%}" in predicted


def test_jax_trains_and_goes_on(copy):
    pytest.importorskip("jax")
    copy.change_params({"runtime": {"backend": "jax"}})
    remove_outputs(copy, "train_basic")
    train(copy, "train_basic")


def test_a_missing_backend_is_named(checkout):
    checkout.change_params({"runtime": {"backend": "jax"}})
    hidden = "import importlib.util; importlib.util.find_spec = lambda name: None"
    said = checkout.script("train_basic", before=hidden, check=False, fresh=True)
    assert said.returncode == 1
    assert said.stderr.startswith("error: runtime.backend is jax, which is not installed: `pip")
