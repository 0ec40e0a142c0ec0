"""The programs that commands start."""

import re
import subprocess

from catsdogs.stage import UserError


def output(*command: str) -> str:
    """Run a program and return what it prints.

    Raises:
        UserError: it fails; this has the first reason that it gives.
    """
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = re.search(r"(?im)^(?:error|fatal): *(.+)$", result.stderr)
        raise UserError(f"{' '.join(command[:3])}: {reason[1] if reason else result.stderr}")
    return result.stdout.strip()
