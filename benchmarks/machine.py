"""The machine: its processor, and what the bounds and precisions depend on."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import joblib

NATIVE = "native"  # of oneDNN's instruction sets: all that the processor has
PACKAGES = ("tensorflow-cpu", "tensorflow", "keras", "numpy", "opencv-python-headless", "dvc")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")


def is_narrow(cpu_isa: str) -> bool:
    """Tell whether no instructions beyond AVX2 are used, by the processor or by `--cpu-isa`."""
    wide = cpu_isa == NATIVE or cpu_isa.startswith(("AVX512", "AVX10"))
    return not (wide and "avx512f" in instructions())


def precisions(cpu_isa: str) -> list[str]:
    """Return the precisions to train in, the fastest first."""
    allowed = cpu_isa == NATIVE or cpu_isa.endswith(("BF16", "FP16", "AMX", "512"))
    own = allowed and {"avx512_bf16", "amx_bf16"} & set(instructions())
    return ["bfloat16", "float32"] if own else ["float32"]


def describe(runtime: Mapping[str, Any], cpu_isa: str) -> str:
    """Describe machine, packages and `runtime` of `params.yaml`, as a list in Markdown."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = sorted(
        f"{package.name} {package.version}"
        for package in metadata.distributions()
        if package.name.lower().replace("_", "-") in PACKAGES
    )
    shown = {name: value for name, value in runtime.items() if not isinstance(value, dict)}
    shown |= {"cpu_isa": cpu_isa, "precision": "as the table says"}
    limit = "" if cpu_isa == NATIVE else f", with ONEDNN_MAX_CPU_ISA={cpu_isa}"
    return (
        f"- {processor()}, {joblib.cpu_count()} cores, {memory:.1f} GiB\n"
        f"- {platform.system()} {platform.release()}, Python {platform.python_version()}, "
        f"{', '.join(packages)}\n"
        f"- `runtime`: {', '.join(f'{name} {value}' for name, value in shown.items())}; "
        f"the notebook has TensorFlow's defaults{limit}\n"
    )


def processor() -> str:
    """Name the processor, its family and model, and its vector instructions."""
    name, *numbers = (_cpuinfo().get(each) for each in ("model name", "cpu family", "model"))
    if not name:
        return platform.processor() or platform.machine()
    return "{} (family {}, model {}; {})".format(name, *numbers, ", ".join(instructions()))


def instructions() -> list[str]:
    """Return the names of the processor's vector instructions, as Linux has them."""
    return [name for name in INSTRUCTIONS if name in _cpuinfo().get("flags", "").split()]


def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")  # which only Linux has
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return dict(re.findall(r"^([\w ]+?)\s*: (.*)$", text, re.MULTILINE))
