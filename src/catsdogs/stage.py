"""How a stage ends: errors that a user can mend, and interruptions, become one line.

A stage may be killed at any moment: what it writes is whole or not there. So an interruption needs
no tidying up to be safe, only to be quick and to say what happened.
"""

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SHELLS = ("sh", "dash", "bash", "ksh", "zsh", "fish")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class UserError(Exception):
    """Something that the user can put right. Its text says what, where and what to do."""


class Interrupted(KeyboardInterrupt):
    """The user, or whoever ends the machine's processes, wants the stage to stop."""


_received: list[int] = []


def run(main: Callable[[], None], advice: str = "`dvc repro` goes on from here") -> None:
    """Run a stage; end the process with one line on stderr if something stops it.

    The status is 1 if the user must act, also where the operating system refuses something (no
    space, no permission), and 128 plus the signal's number after an interruption.

    Args:
        main: the stage.
        advice: what to do after an interruption.
    """
    mind_interruptions()
    try:
        main()
    except BaseException as error:
        if _received:
            sys.stdout.flush()
            print(f"interrupted: {advice}", file=sys.stderr, flush=True)
            os._exit(128 + _received[0])  # waiting for no thread
        if isinstance(error, UserError):
            sys.exit(f"error: {error}")
        if isinstance(error, OSError):
            where = f"{error.filename}: " if error.filename else ""
            room = ": make room and run again" if error.errno in NO_ROOM else ""
            reason = os.strerror(error.errno) if error.errno else " ".join(str(error).split())
            sys.exit(f"error: {where}{reason}{room}")
        raise


def begin() -> None:
    """Begin a stage that DVC runs: until `run`, an interruption finds only packages that load."""
    end_with_parent()
    for each in SIGNALS:
        signal.signal(each, _leave)


def _leave(number: int, _: FrameType | None) -> NoReturn:
    print("interrupted: nothing was begun", file=sys.stderr, flush=True)
    os._exit(128 + number)


def mind_interruptions() -> None:
    """Raise `Interrupted` at the first signal to stop, and end the process at the second."""
    for each in SIGNALS:
        signal.signal(each, _interrupt)


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    if _received:
        os._exit(128 + number)
    _received.append(number)
    raise Interrupted


def end_with_parent() -> None:
    """Interrupt this process once the one that started it is gone.

    DVC may be killed without a chance to stop its stage, which would then go on beside the next;
    and so may a stage that has given work to processes of its own.
    """
    forebears = _forebears()

    def watch() -> None:
        while _forebears() == forebears:
            time.sleep(0.5)
        if not _received:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
        os._exit(128 + signal.SIGTERM)  # the signal was lost on somebody's way

    threading.Thread(target=watch, daemon=True).start()


def _forebears() -> list[int]:
    """The process that started this one and, if that is a shell, the one that started the shell.

    DVC runs a stage through a shell, which some replace by the stage and others wait in.
    """
    parent = os.getppid()
    try:
        stat = Path(f"/proc/{parent}/stat").read_text(encoding="utf-8")
    except OSError:  # this is not Linux, or the parent is gone
        return [parent]
    name, _, rest = stat.partition("(")[2].rpartition(")")
    return [parent, int(rest.split()[1])] if name in SHELLS else [parent]


def begin_worker() -> None:
    """Make a process that works for a stage end with it, and leave interruptions to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()
