"""What decides a computation's last bits, pinned before TensorFlow is imported.

The number of threads, oneDNN and the instruction set that it may use each change the order of
floating-point operations, and so the model. Everything else that is random follows from a seed.
"""

import ctypes
import gc
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from catsdogs import params
from catsdogs.params import Count, Real, Section, Training, Whole

from pydantic import Field


class Runtime(Section):
    """The section `runtime` of `params.yaml`."""

    threads: Annotated[Whole, Field(ge=1, le=1024)]
    onednn: bool
    cpu_isa: Literal[
        "SSE41",
        "AVX",
        "AVX2",
        "AVX2_VNNI",
        "AVX512_CORE",
        "AVX512_CORE_VNNI",
        "AVX512_CORE_BF16",
        "AVX512_CORE_FP16",
        "AVX512_CORE_AMX",
    ]
    rehearsal: Annotated[Real, Field(gt=0, le=1)]
    checkpoint_steps: Count


# Of glibc's malloc.h, for mallopt.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3

PACKAGES = ("tensorflow", "keras", "numpy", "cv2")  # whose computations reach the model

TrainingT = TypeVar("TrainingT", bound=Training)


def begin_training(stage: str, model: type[TrainingT]) -> tuple[TrainingT, Runtime]:
    """Read a training's section of `params.yaml` and pin what it depends on besides.

    On drawn images the steps are shortened to the rehearsal's, so what is returned may have fewer
    than `params.yaml`.

    Returns:
        The training's section, and what was pinned.

    Raises:
        UserError: a section is wrong.
    """
    training = params.load(stage, model)
    runtime = params.load("runtime", Runtime)
    if params.load_text("data.source") == "sample":
        training = _rehearsed(training, runtime.rehearsal)
    pin(runtime, training.seed)
    return training, runtime


def _rehearsed(training: TrainingT, share: float) -> TrainingT:
    names = ("steps_per_epoch", "validation_steps", "warmup_steps")
    given = {name: getattr(training, name) for name in names}
    steps = {name: count and max(1, round(count * share)) for name, count in given.items()}
    print(
        f"drawn images, a rehearsal (runtime.rehearsal: {share:g}): {training.epochs} epochs of "
        f"{steps['steps_per_epoch']} steps instead of {training.steps_per_epoch}"
    )
    return training.model_copy(update=steps)


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Discard what the process writes to standard error, also what is not Python's."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nothing:
            os.dup2(nothing.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def last_bits(runtime: Runtime) -> dict[str, Any]:
    """All that decides a computation's last bits, once TensorFlow is imported."""
    return {
        **runtime.model_dump(include={"threads", "onednn", "cpu_isa"}),
        "processor": _processor(),
        "packages": {name: sys.modules[name].__version__ for name in PACKAGES},
    }


def _processor() -> str:
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # this is not Linux
        return platform.processor()
    model = re.search(r"^model name.*$", described, re.MULTILINE)
    return model.group() if model else platform.machine()


def keep_memory() -> None:
    """Let this process keep what it frees, for its next batch.

    glibc gives large arrays back to the system at once and takes them anew page by page, which
    costs up to a third of a batch's augmentation. Other C libraries have no such setting.
    """
    c_library = ctypes.CDLL(None)
    if hasattr(c_library, "mallopt"):
        c_library.mallopt(MMAP_THRESHOLD, 32 << 20)  # the most that it takes
        c_library.mallopt(TRIM_THRESHOLD, 256 << 20)


def release_memory() -> None:
    """Give what is not in use back to the system, where the C library can."""
    gc.collect()
    c_library = ctypes.CDLL(None)
    if hasattr(c_library, "malloc_trim"):
        c_library.malloc_trim(0)


def pin(runtime: Runtime, seed: int = 0) -> None:
    """Import TensorFlow under the given conditions, seeded and with deterministic operations.

    Must be called before anything else imports TensorFlow or Keras.
    """
    keep_memory()
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = str(int(runtime.onednn))
    os.environ["ONEDNN_MAX_CPU_ISA"] = runtime.cpu_isa
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors of TensorFlow's C++ part only

    with _without_stderr():  # TensorFlow announces itself there, before it heeds any level
        import keras
        import tensorflow as tf
    tf.config.threading.set_intra_op_parallelism_threads(runtime.threads)
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(seed)
