"""What a computation runs on, pinned before Keras is imported: it decides the last bits.

The backend, the precision, the number of threads and the instructions change the order of
floating-point operations, and so the model. Everything else that is random follows from a seed.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import json
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

from catsdogs import layout, params
from catsdogs.params import Count, Real, Section, Whole
from catsdogs.stage import UserError
from catsdogs.workers import ADDRESS, ALONE, PROCESS, Workers

from pydantic import Field

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h, for mallopt

PACKAGES = ("keras", "numpy", "cv2")  # whose computations reach the model, besides the backend's

# How variables of the environment begin that can change what is computed, and those of them that
# only say where to compute and what to print.
FOREIGN = (
    "CUBLAS_",
    "CUDNN_",
    "DNNL_",
    "JAX_",
    "KERAS_",
    "NVIDIA_TF32_",
    "ONEDNN_",
    "TF_",
    "XLA_",
)
HARMLESS = (
    "JAX_PLATFORMS",
    "TF_CPP_MIN_LOG_LEVEL",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    ADDRESS,
    PROCESS,
)

# What oneDNN can be limited to, in ascending order; what Linux calls what each one needs; and the
# nearest limit of XLA.
INSTRUCTIONS = {
    "SSE41": ("sse4_1", "SSE4_2"),
    "AVX": ("avx", "AVX"),
    "AVX2": ("avx2", "AVX2"),
    "AVX2_VNNI": ("avx_vnni", "AVX2"),
    "AVX512_CORE": ("avx512dq", "AVX512"),
    "AVX512_CORE_VNNI": ("avx512_vnni", "AVX512_VNNI"),
    "AVX512_CORE_BF16": ("avx512_bf16", "AVX512_BF16"),
    "AVX512_CORE_FP16": ("avx512_fp16", "AVX512_BF16"),
    "AVX512_CORE_AMX": ("amx_bf16", "AMX"),
}
# The first of them that multiply in a 16-bit precision.
NEEDED = {"bfloat16": "AVX512_CORE_BF16", "float16": "AVX512_CORE_FP16"}

Threads = Literal["native"] | Annotated[Whole, Field(ge=1, le=1024)]
Instructions = Literal[("native", *INSTRUCTIONS)]  # type: ignore[valid-type]


class Rehearsal(Section):
    """The section `rehearsal`: drawn images are trained with this instead of `runtime`'s."""

    steps: Annotated[Real, Field(gt=0, le=1)]
    threads: Threads
    cpu_isa: Instructions


class Settings(Section):
    """The section `runtime` of `params.yaml`."""

    backend: Literal["tensorflow", "jax"]
    devices: Annotated[Whole, Field(ge=1, le=1024)]
    processes: Annotated[Whole, Field(ge=1, le=4096)]
    precision: Literal["float32", "tf32", "bfloat16", "float16"]
    threads: Threads
    onednn: bool
    cpu_isa: Instructions

    def conflicts(self, name: str, sections: Mapping[str, Any]) -> Iterator[str]:
        """Yield what the backend cannot do, or the instructions that `cpu_isa` allows."""
        if self.backend != "jax" and self.devices * self.processes > 1:
            yield (
                f"{name}.devices and {name}.processes are 1 with TensorFlow: for more, set "
                f"{name}.backend to jax"
            )
        is_drawn = "data" not in sections or sections["data"].source == layout.SAMPLE
        if self.is_forbidden(self.cpu_isa) and not is_drawn:
            yield (
                f"{name}.precision {self.precision} needs instructions that {name}.cpu_isa "
                f"{self.cpu_isa} forbids: set it to native"
            )

    def is_forbidden(self, cpu_isa: str) -> bool:
        """Whether TensorFlow's convolutions fail in this precision under a limit."""
        return self.precision in NEEDED and _is_below(cpu_isa, "AVX512_CORE")


class Local(Section):
    """The section `local`: what changes no result."""

    checkpoint_steps: Count
    cache_gb: Annotated[Real, Field(gt=0)]


@dataclass(frozen=True)
class Runtime:
    """What a process computes with: the sections `runtime`, `rehearsal` and `local`, resolved."""

    backend: str
    precision: str
    threads: int
    onednn: bool
    cpu_isa: str  # the limit, or `native`
    checkpoint_steps: int = 100
    cache_gb: float = 8.0
    steps: float = 1.0  # share of the steps that are taken; below 1 in a rehearsal
    workers: Workers = ALONE

    @property
    def instructions(self) -> str:
        """The widest instructions that oneDNN uses, or the kind of processor if it is not x86."""
        flags = _processor("flags").split()
        has = [name for name, (flag, _) in INSTRUCTIONS.items() if flag in flags]
        if not has:
            return platform.machine()
        known = list(INSTRUCTIONS)
        return has[-1] if self.cpu_isa == "native" else min(self.cpu_isa, has[-1], key=known.index)

    @property
    def readers(self) -> int:
        """The number of threads that read batches: one beside a CPU that computes."""
        return min(8, _cpu_count()) if _gpu(self.backend) else 1

    def describe(self) -> str:
        """Say in a few words what is used: `float32, 2 threads, AVX2`."""
        gpu = _gpu(self.backend)
        where = [gpu] if gpu else [f"{self.threads} threads", self.instructions]
        if not gpu and self.cpu_isa == "native" and (model := _processor("model name")):
            where.append(model)
        if self.workers.total > 1:
            where.insert(0, f"{self.workers.total} workers")
        return ", ".join(["JAX"] * (self.backend == "jax") + [self.precision, *where])


def load() -> Runtime:
    """Read the sections `runtime` and `local`, and what replaces parts of them for drawn images.

    The stage `split` writes the section `rehearsal` into a file, or null for photographs. So a
    change of the section reaches no training on photographs.

    Raises:
        UserError: the section `runtime` or `local` is wrong.
    """
    settings, local = params.load("runtime", Settings), params.load("local", Local)
    written = layout.REHEARSAL.read_text(encoding="utf-8") if layout.REHEARSAL.exists() else "null"
    rehearsal = Rehearsal(**values) if (values := json.loads(written)) else None
    chosen = rehearsal or settings
    return Runtime(
        backend=settings.backend,
        workers=Workers(settings.devices, settings.processes),
        precision=settings.precision,
        threads=_cpu_count() if chosen.threads == "native" else chosen.threads,
        onednn=settings.onednn,
        # Photographs are refused, see `Settings.conflicts`.
        cpu_isa="native" if settings.is_forbidden(chosen.cpu_isa) else chosen.cpu_isa,
        checkpoint_steps=local.checkpoint_steps,
        cache_gb=local.cache_gb,
        steps=rehearsal.steps if rehearsal else 1.0,
    )


def pin(runtime: Runtime, seed: int = 0) -> None:
    """Import Keras and its backend under the given conditions, seeded and deterministic.

    Call it before anything else imports Keras, TensorFlow or JAX.

    Raises:
        UserError: the backend is not installed, or devices or processes are missing.
    """
    for name in list(os.environ):
        if name.startswith(FOREIGN) and name not in HARMLESS:
            del os.environ[name]
    os.environ["KERAS_BACKEND"] = runtime.backend
    os.environ["KERAS_HOME"] = os.devnull  # no folder: the user's keras.json is for other projects
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors of TensorFlow's C++ part only
    (_pin_jax if runtime.backend == "jax" else _pin_tensorflow)(runtime)
    with _without_stderr():
        import keras
    is_16_bit = runtime.precision in NEEDED
    # Weights, optimizer and loss stay float32.
    keras.config.set_dtype_policy(f"mixed_{runtime.precision}" if is_16_bit else "float32")
    with _without_stderr():  # this imports TensorFlow, whatever the backend
        keras.utils.set_random_seed(seed)
    if (
        is_16_bit
        and not _gpu(runtime.backend)
        and _is_below(runtime.instructions, NEEDED[runtime.precision])
    ):
        print(
            f"runtime.precision is {runtime.precision}, for which {runtime.instructions} has no "
            "instructions: it will be slow"
        )


def pin_for_inference() -> None:
    """Import TensorFlow to ask trained models, in float32, whatever trained them.

    Raises:
        UserError: the section `runtime` or `local` is wrong.
    """
    pin(replace(load(), backend="tensorflow", precision="float32", workers=ALONE))


def fingerprint(runtime: Runtime) -> dict[str, Any]:
    """Return everything that decides the last bits. The backend must be imported already."""
    return {
        "backend": runtime.backend,
        "precision": runtime.precision,
        "threads": runtime.threads,
        "onednn": runtime.onednn,
        "cpu_isa": runtime.instructions,
        "processor": _processor("model name") or platform.processor() or platform.machine(),
        "gpu": _gpu(runtime.backend),
        "packages": {name: sys.modules[name].__version__ for name in (runtime.backend, *PACKAGES)},
    }


def _pin_tensorflow(runtime: Runtime) -> None:
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = str(int(runtime.onednn))
    if runtime.cpu_isa != "native":
        os.environ["ONEDNN_MAX_CPU_ISA"] = runtime.cpu_isa
    with _without_stderr():  # TensorFlow announces itself there, whatever the level
        import tensorflow as tf
    tf.config.threading.set_intra_op_parallelism_threads(runtime.threads)
    tf.config.experimental.enable_op_determinism()
    tf.config.experimental.enable_tensor_float_32_execution(runtime.precision == "tf32")
    for gpu in tf.config.list_physical_devices("GPU"):  # which other processes may use, too
        tf.config.experimental.set_memory_growth(gpu, True)


def _pin_jax(runtime: Runtime) -> None:
    if not importlib.util.find_spec("jax"):
        raise UserError(
            "runtime.backend is jax, which is not installed: "
            "`pip install -r requirements-gpu.txt` for an NVIDIA GPU, `pip install jax` for a CPU"
        )
    flags = ["--xla_gpu_deterministic_ops=true"]
    if runtime.cpu_isa != "native" and platform.machine() in ("x86_64", "AMD64"):
        flags.append(f"--xla_cpu_max_isa={INSTRUCTIONS[runtime.cpu_isa][1]}")
    os.environ["XLA_FLAGS"] = " ".join(flags)
    os.environ["NPROC"] = str(runtime.threads)  # of XLA's pool of threads for a CPU
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # others may use the GPU, too
    import jax

    # Left alone, XLA multiplies float32 as TF32 where a GPU can.
    tf32 = runtime.precision == "tf32"
    jax.config.update("jax_default_matmul_precision", "tensorfloat32" if tf32 else "highest")
    runtime.workers.meet()


def _is_below(instructions: str, others: str) -> bool:
    """Whether instructions are known to hold less than others."""
    known = list(INSTRUCTIONS)
    return instructions in known and known.index(instructions) < known.index(others)


@cache
def _gpu(backend: str) -> str:
    """Name the GPU that the imported backend computes on, with its libraries; "" without one."""
    if backend == "jax":
        import jax

        device = jax.devices()[0]
        name = "" if device.platform == "cpu" else device.device_kind
    else:
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        name = tf.config.experimental.get_device_details(gpus[0])["device_name"] if gpus else ""
    libraries = {
        f"{package.name} {package.version}"
        for package in metadata.distributions()
        if name and re.match(r"nvidia[-_](cudnn|cuda[-_]runtime)", package.name)
    }
    return ", ".join([name, *sorted(libraries)])


def _cpu_count() -> int:
    import joblib  # which knows a container's share of the cores; takes a while to import

    return joblib.cpu_count()


@cache
def _processor(quality: str) -> str:
    """Return what Linux knows of the processor, such as `model name`; "" elsewhere."""
    try:
        description = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(rf"^{quality}\s*: (.*)$", description, re.MULTILINE)
    return found[1] if found else ""


def keep_memory() -> None:
    """Let the C library keep the memory of arrays that are freed, where it can.

    By itself, glibc returns a large array to the system at once, and takes the next one page by
    page. That costs more than to read a batch.
    """
    _c_function("mallopt")(MMAP_THRESHOLD, 32 << 20)  # bytes: the most that glibc accepts
    _c_function("mallopt")(TRIM_THRESHOLD, 256 << 20)


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
