"""Git, asked from the working directory."""

import os
import re
import subprocess

from catsdogs.stage import UserError


def git(*arguments: str, optional: bool = False) -> str:
    """Return what a Git command prints; nothing if it fails, as outside of a repository.

    Args:
        arguments: of the command.
        optional: whether Git may be missing; then nothing is returned.

    Raises:
        UserError: Git is not installed, or refuses the checkout of another user.
    """
    environment = os.environ | {"LC_ALL": "C"}  # its messages are read here
    command = ["git", *arguments]
    try:
        result = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",  # whatever the locale is
            errors="surrogateescape",
            check=False,
            env=environment,
        )
    except FileNotFoundError:
        if optional:
            return ""
        raise UserError("Git is not installed, and this needs it: install it") from None
    if "dubious ownership" in result.stderr:
        advice = re.search(r"git config .*safe\.directory .*", result.stderr)
        raise UserError(
            "this checkout belongs to another user, so Git refuses it: "
            f"`{advice[0] if advice else 'git status'}` lets it"
        )
    return result.stdout.strip()


def require() -> None:
    """Raise a `UserError` where there is no repository of Git, or no commit in it."""
    if not git("rev-parse", "--git-dir"):
        raise UserError(
            "this folder is in no Git repository, and this command needs one: "
            "`dvc config core.no_scm false`, `git init`, and commit all files"
        )
    if not git("rev-parse", "--verify", "--quiet", "HEAD"):
        raise UserError("this repository has no commit yet: `git add --all`, `git commit`")
