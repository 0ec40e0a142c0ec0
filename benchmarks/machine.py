"""The machine and the programs that the figures come from: nothing goes in, a list comes out."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "tensorflow-cpu",
    "tensorflow",
    "keras",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "scipy",
    "dvc",
    "mlflow",
)
TORCH = ("torch", "torchvision")


def describe(runtime: dict[str, object], torch: Path) -> str:
    """Describe the machine, as a list in Markdown.

    Args:
        runtime: the section of `params.yaml`.
        torch: the interpreter of PyTorch's environment, which need not be there.
    """
    pinned = ", ".join(f"{name} {runtime[name]}" for name in ("threads", "onednn", "cpu_isa"))
    facts = {
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "packages": ", ".join([*installed(PACKAGES), *elsewhere(torch, TORCH)]),
        "this pipeline's TensorFlow": pinned,
        "the notebook's TensorFlow": "its own defaults",
    }
    return "\n".join(f"- {name}: {fact}" for name, fact in facts.items())


def processor() -> str:
    """The processor's name, with its family and model, which some names leave open."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # this is not Linux
        return platform.processor() or platform.machine()
    found = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", text, re.MULTILINE))
    name = found.get("model name", platform.machine())
    return f"{name} (family {found['cpu family']}, model {found['model']})" if found else name


def installed(packages: Sequence[str]) -> list[str]:
    """Each package with its version, without those that are not installed."""
    found = {
        each.name.lower().replace("_", "-"): each.version for each in metadata.distributions()
    }
    return [f"{name} {found[name]}" for name in packages if name in found]


def elsewhere(python: Path, packages: Sequence[str]) -> list[str]:
    """The same of another environment; nothing if it is not there."""
    code = "import sys, importlib.metadata as m; [print(p, m.version(p)) for p in sys.argv[1:]]"
    try:
        command = [python, "-c", code, *packages]
        return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    except OSError:
        return []
