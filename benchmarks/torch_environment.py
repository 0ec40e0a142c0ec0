"""PyTorch's environment, which is none of the project's: made once, below `.cache/bench`."""

import subprocess
import sys
from pathlib import Path

from checkout import LOGS, WORK, environment
from measure import Contender, NotMeasured

HERE = Path(__file__).resolve().parent
FOLDER = WORK / "torch"
PYTHON = FOLDER / "bin" / "python"


def contender(*arguments: str) -> Contender:
    """Start `torch_rival.py`.

    Raises:
        NotMeasured: PyTorch cannot be installed.
    """
    make()
    command = [str(PYTHON), str(HERE / "torch_rival.py"), *arguments]
    return Contender(command, WORK, environment(), LOGS / f"torch-{arguments[0]}.log")


def make() -> None:
    """Install what `requirements-torch.txt` names, unless it is there.

    Raises:
        NotMeasured: that fails.
    """
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", FOLDER], check=True)
    if subprocess.run([PYTHON, "-c", "import torchvision"], capture_output=True).returncode == 0:
        return
    requirements = HERE / "requirements-torch.txt"
    log = LOGS / "torch-install.log"
    with log.open("w") as output:
        install = subprocess.run(
            [PYTHON, "-m", "pip", "install", "--quiet", "--requirement", requirements],
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if install.returncode:
        reason = (log.read_text().strip().splitlines() or ["pip failed"])[-1]
        raise NotMeasured(f"PyTorch cannot be installed: {reason}")
