"""How a stage ends: an error that the user can put right, or an interruption, is one line.

A stage may be killed at any moment, for it writes every output whole or not at all. So an
interruption needs no clean-up. It only has to be quick and to say what happened.
"""

import errno
import io
import multiprocessing
import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

import psutil

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SHELLS = ("sh", "dash", "bash", "ksh", "zsh", "fish", "cmd.exe")

_received: list[int] = []  # the signal that interrupted this process


class UserError(Exception):
    """Something that the user can put right. Its text says what, where and what to do."""


class Interrupted(KeyboardInterrupt):
    """The user, or the system, asks the stage to stop."""


def run(main: Callable[[], None], advice: str = "`dvc repro` goes on from here") -> None:
    """Run a stage. If something stops it, print one line to stderr and end the process.

    The status is 1 if the user must act, also where the operating system refuses something (no
    space, no permission). After an interruption it is 128 plus the signal's number.

    Args:
        main: the stage.
        advice: what to do after an interruption.
    """
    _handle_signals(_raise_interrupted)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names are of any bytes; a terminal, of ASCII
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
        sys.stdout.flush()
    except BaseException as error:
        if _received:
            sys.stdout.flush()
            print(f"interrupted: {advice}", file=sys.stderr, flush=True)
            for worker in multiprocessing.active_children():
                worker.kill()
            os._exit(128 + _received[0])  # without waiting for threads
        if isinstance(error, BrokenPipeError):
            leave()
        if isinstance(error, UserError):
            sys.exit(f"error: {error}")
        if isinstance(error, OSError):
            where = f"{error.filename}: " if error.filename else ""
            room = ": make room and run again" if error.errno in NO_SPACE else ""
            reason = os.strerror(error.errno) if error.errno else one_line(error)
            sys.exit(f"error: {where}{reason}{room}")
        raise


def leave() -> NoReturn:
    """End the process, because nobody reads what it prints any more, as after `| head -1`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python prints at its end
    sys.exit(128 + signal.SIGPIPE if sys.platform != "win32" else 1)


def one_line(text: object) -> str:
    """Return what an error says in one line. Only a whole page of it is cut, and ends with …"""
    return textwrap.shorten(str(text), 2000, placeholder=" …")


def begin() -> None:
    """Let an interruption end this process at once, until `run` is called.

    Packages load meanwhile, which takes seconds, and nothing is lost.
    """
    _handle_signals(_exit_at_once)
    end_with_parent()


def begin_worker() -> None:
    """Prepare a process that works for a stage: the stage handles interruptions, and ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()


def end_with_parent() -> None:
    """Interrupt this process soon after the process that started it has ended.

    Someone may kill DVC, or a stage that has workers, so that it cannot stop what it started.
    """
    ancestors = _ancestors()

    def watch() -> None:
        while _ancestors() == ancestors:
            time.sleep(0.5)
        if not _received:
            os.kill(os.getpid(), signal.SIGTERM)  # on Windows this ends the process at once
        time.sleep(10)
        os._exit(128 + signal.SIGTERM)  # nothing reacted to the signal

    threading.Thread(target=watch, daemon=True).start()


def _ancestors() -> list[int]:
    """Return the parent of this process and, if that is a shell, the parent of the shell.

    DVC starts a stage through a shell. Some shells wait for the stage, others become the stage.
    """
    try:
        parent = psutil.Process(os.getppid())
        return [parent.pid, parent.ppid()] if parent.name() in SHELLS else [parent.pid]
    except psutil.AccessDenied:  # to the parent's name
        return [os.getppid()]
    except psutil.NoSuchProcess:  # Windows keeps the number of a parent that has ended
        return []


def _handle_signals(handler: Callable[[int, FrameType | None], Any]) -> None:
    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, handler)


def _exit_at_once(number: int, _: FrameType | None) -> NoReturn:
    print("interrupted: nothing was begun", file=sys.stderr, flush=True)
    os._exit(128 + number)


def _raise_interrupted(number: int, _: FrameType | None) -> NoReturn:
    if _received:  # a second signal
        os._exit(128 + number)
    _received.append(number)
    raise Interrupted
