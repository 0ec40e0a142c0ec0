"""The contender's side of a benchmark: a task's name comes in, what the task took goes out.

A contender is a process of its own that stays, ready and warm, while the others have their turns.
It runs in any environment, so nothing but the standard library is imported here.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping

END = "end"
PAUSE = 0.1  # seconds
RESTING = 0.1  # of a core


class Referee:
    """Asks for tasks and hears how much was done; watches the clocks meanwhile.

    It has to be there before anything is printed: what a contender prints goes to its log from
    then on, so that answers are alone where they are read.
    """

    def __init__(self) -> None:
        self.answers = os.fdopen(os.dup(1), "w")
        sys.stdout.flush()
        os.dup2(2, 1)
        self.began = (0.0, 0.0)

    def ask(self) -> str:
        """Return the next task's name, or `END`; the clocks run from here.

        The process ends at once where nobody is left to ask.
        """
        task = sys.stdin.readline().strip()
        if not task:
            os._exit(1)
        self.began = clocks()
        return task

    def tell(self, units: int) -> None:
        """Say how many images or steps the task had, once nothing goes on behind them.

        Batches are prepared ahead. Those that a task found ready, it leaves ready for the next.
        """
        cpu, wall = (now - then for now, then in zip(settled(), self.began, strict=True))
        self.answers.write(json.dumps({"units": units, "cpu": cpu, "wall": wall}) + "\n")
        self.answers.flush()

    def serve(self, tasks: Mapping[str, Callable[[], int]]) -> None:
        """Do what is asked for until nothing is; a task returns its number of images or steps."""
        while (task := self.ask()) != END:
            self.tell(tasks[task]())


def settled() -> tuple[float, float]:
    """Wait until this process rests; return the clocks as they were when it began to."""
    now = clocks()
    while True:
        time.sleep(PAUSE)
        before, now = now, clocks()
        if now[0] - before[0] < RESTING * PAUSE:
            return before


def clocks() -> tuple[float, float]:
    """CPU seconds of this process and of those it has waited for, and wall time."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used), time.perf_counter()
