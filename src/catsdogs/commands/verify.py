"""Rebuild the last commit in a clone and compare the outputs.

`dvc repro --force` rebuilds. The clone has caches and an MLflow store of its own. For each output
this says whether `dvc.lock` has another hash now.
"""

import os
import subprocess
import tempfile
from pathlib import Path

from catsdogs import layout
from catsdogs.commands.programs import output
from catsdogs.git import git, require
from catsdogs.stage import UserError
from catsdogs.tracking.snapshots import LOCK, outputs, read_lock


def main() -> None:
    """Print a line for every output.

    Raises:
        UserError: an output differs, or the clone cannot be rebuilt.
    """
    require()
    revision = output("git", "rev-parse", "--short", "HEAD")
    if output("git", "status", "--porcelain"):
        print(f"changes that are not committed are left out: this is about {revision}")
    expected = outputs(read_lock(git("show", f"HEAD:./{LOCK}")))
    if not expected:
        raise UserError("dvc.lock has no outputs: run `dvc repro` and commit what it changes")
    with tempfile.TemporaryDirectory(prefix="catsdogs-") as folder:
        whole = Path(folder) / "clone"
        output("git", "clone", "--quiet", git("rev-parse", "--show-toplevel"), str(whole))
        clone = whole / git("rev-parse", "--show-prefix")
        _rebuild(clone)
        rebuilt = outputs(read_lock((clone / LOCK).read_text(encoding="utf-8")))
    paths = sorted(expected | rebuilt)
    different = [path for path in paths if expected.get(path) != rebuilt.get(path)]
    for path in paths:
        print(f"{'DIFFERENT' if path in different else 'identical'}  {path}")
    if different:
        raise UserError(
            f"{len(different)} of {len(expected)} outputs differ from {revision}'s dvc.lock: "
            f"{', '.join(map(str, different))} (another kind of processor makes other models)"
        )
    print(f"all {len(rebuilt)} outputs of {revision} are identical")


def _rebuild(clone: Path) -> None:
    """Run all stages in a clone. Downloads, and files of `params.yaml`, are this checkout's."""
    scratch = clone / ".cache"
    scratch.mkdir()
    environment = os.environ | {
        "DVC_ROOT": str(layout.ROOT),
        "CATSDOGS_CHECKPOINTS": str(scratch / "checkpoints"),
        "CATSDOGS_FEATURES": str(scratch / "features"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{scratch / 'mlflow.db'}",
    }
    command = ["dvc", "repro", "--force"]
    if subprocess.run(command, cwd=clone, env=environment, check=False).returncode:
        raise UserError("the clone could not be rebuilt: see above")
