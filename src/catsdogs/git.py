"""Git, asked from the working directory."""

import subprocess


def git(*arguments: str) -> str:
    """Return what a Git command prints; nothing if it fails or Git is not installed."""
    try:
        result = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return result.stdout.strip()
