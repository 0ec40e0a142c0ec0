"""What decides a computation's last bits, pinned before TensorFlow is imported.

The number of threads, oneDNN and its instruction set change the order of floating-point
operations, and so the model. Everything else that is random follows from a seed.
"""

import ctypes
import gc
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from catsdogs.params import Count, Real, Section, Whole

from pydantic import Field

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h, for mallopt

PACKAGES = ("tensorflow", "keras", "numpy", "cv2")  # whose computations reach the model


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


def pin(runtime: Runtime, seed: int = 0) -> None:
    """Import TensorFlow under the given conditions, seeded and with deterministic operations.

    Call it before anything else imports TensorFlow or Keras.
    """
    # glibc returns large arrays to the system at once and takes them again page by page. That
    # costs up to a third of a batch's augmentation.
    _c_function("mallopt")(MMAP_THRESHOLD, 32 << 20)  # the most that glibc accepts
    _c_function("mallopt")(TRIM_THRESHOLD, 256 << 20)
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = str(int(runtime.onednn))
    os.environ["ONEDNN_MAX_CPU_ISA"] = runtime.cpu_isa
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors of TensorFlow's C++ part only

    with _without_stderr():  # TensorFlow announces itself there, whatever the level
        import keras
        import tensorflow as tf
    tf.config.threading.set_intra_op_parallelism_threads(runtime.threads)
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(seed)


def fingerprint(runtime: Runtime) -> dict[str, Any]:
    """Return everything that decides the last bits. TensorFlow must be imported already."""
    return {
        **runtime.model_dump(include={"threads", "onednn", "cpu_isa"}),
        "processor": _processor(),
        "packages": {name: sys.modules[name].__version__ for name in PACKAGES},
    }


def _processor() -> str:
    try:
        description = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # this is not Linux
        return platform.processor() or platform.machine()
    model = re.search(r"^model name.*$", description, re.MULTILINE)
    return model.group() if model else platform.machine()


def release_memory() -> None:
    """Return unused memory to the system, where the C library can."""
    gc.collect()
    _c_function("malloc_trim")(0)


def _c_function(name: str) -> Callable[..., Any]:
    """Return a function of the C library, or one that does nothing where it has none."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return getattr(library, name, lambda *_: None)


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Discard what this process writes to standard error, its C++ parts included."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nothing:
            os.dup2(nothing.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
