"""The programs that commands start."""

import re
import subprocess

from catsdogs.stage import UserError, one_line


def output(*command: str) -> str:
    """Run a program and return what it prints.

    Raises:
        UserError: it fails; this has the first reason that it gives, and all that follows it.
    """
    result = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="surrogateescape", check=False
    )
    if result.returncode:
        reason = re.search(r"(?ims)^(?:error|fatal): *(.+)", result.stderr)
        said = one_line(reason[1] if reason else result.stderr)
        raise UserError(f"{' '.join(command[:3])}: {said}")
    return result.stdout.strip()
