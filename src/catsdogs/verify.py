"""Is the pipeline reproducible here? A commit goes in, every output that comes out otherwise.

    python -m catsdogs.verify

To be run from the repository's root, with `src` on Python's path. What is committed is cloned into
a temporary folder and rebuilt there without DVC's cache; the hashes of what comes out are compared
with those in the commit's `dvc.lock`.
"""

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from catsdogs import layout
from catsdogs.stage import UserError, run

import yaml

LOCK = Path("dvc.lock")


def main() -> None:
    """Rebuild a clone, print a line for every output, fail if one differs."""
    revision = _git("rev-parse", "--short", "HEAD")
    if _git("status", "--porcelain"):
        print(f"changes that are not committed are not looked at: {revision} is")
    with tempfile.TemporaryDirectory(prefix="catsdogs-") as folder:
        clone = Path(folder) / "clone"
        _git("clone", "--quiet", str(Path.cwd()), str(clone))
        expected = outputs(clone)
        if not expected:
            raise UserError(
                "dvc.lock holds no outputs yet: run `dvc repro` and commit what it made"
            )
        _rebuild(clone)
        rebuilt = outputs(clone)
    different = [path for path in sorted(expected | rebuilt) if not _same(path, expected, rebuilt)]
    for path in sorted(expected | rebuilt):
        print(f"{'DIFFERENT' if path in different else 'identical'}  {path}")
    if different:
        raise UserError(
            f"{len(different)} of {len(expected)} outputs differ from {revision}'s dvc.lock: "
            f"{', '.join(different)} (models do, where another kind of processor made those)"
        )
    print(f"all {len(rebuilt)} outputs of {revision} are identical")


def outputs(repository: Path) -> dict[str, str]:
    """Every output that a repository's `dvc.lock` knows, with its MD5."""
    if not (repository / LOCK).exists():
        return {}
    lock: dict[str, Any] = yaml.safe_load((repository / LOCK).read_text(encoding="utf-8")) or {}
    stages = lock.get("stages", {}).values()
    return {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", [])}


def _same(path: str, one: dict[str, str], other: dict[str, str]) -> bool:
    return one.get(path) == other.get(path)


def _rebuild(clone: Path) -> None:
    scratch = clone / ".cache"
    environment = os.environ | {
        # Downloads, and paths that params.yaml has, are the main checkout's; nothing else is.
        "DVC_ROOT": str(layout.ROOT),
        "CATSDOGS_CHECKPOINTS": str(scratch / "checkpoints"),
        "CATSDOGS_FEATURES": str(scratch / "features"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{scratch / 'mlflow.db'}",
    }
    scratch.mkdir()
    if subprocess.run(
        ["dvc", "repro", "--force"], cwd=clone, env=environment, check=False
    ).returncode:
        raise UserError("the clone could not be rebuilt: see above")


def _git(*arguments: str) -> str:
    try:
        result = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=True, env=os.environ
        )
    except subprocess.CalledProcessError as error:
        raise UserError(f"git {arguments[0]} fails: {error.stderr.strip()}") from None
    return result.stdout.strip()


if __name__ == "__main__":
    run(main, "nothing was verified")
