"""Train one model with several workers: devices of one process or of several, with Keras on JAX.

Each worker computes a part of every batch. So the batch of a step is the same for any number of
workers, and only the order of sums differs.
"""

from __future__ import annotations

import atexit
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from catsdogs.stage import UserError, one_line

import numpy as np

if TYPE_CHECKING:
    import keras

# Keras' own names for where the first of several processes listens, as host:port, and which one
# this is, from 0. Without them JAX asks the scheduler: Slurm, Open MPI or Kubernetes.
ADDRESS, PROCESS = "KERAS_DISTRIBUTION_JOB_ADDRESSES", "KERAS_DISTRIBUTION_PROCESS_ID"

LONGEST = 200  # bytes of what the first process tells the others
MEETING_SECONDS = 300  # until all processes are there
SILENT_SECONDS = 100  # until a process that cannot be reached, but was not seen to end, is lost
WRITING_SECONDS = 3600  # for the first process to write, while the others wait for it
LOST = "other processes ended, or cannot be reached: start all again, and they go on from here"
# Prints standard error as it comes, to its first line of an error. JAX aborts a process that loses
# the others, with a page of C++, and lets no Python react.
FILTER = f"""
import re, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
for line in sys.stdin:
    if re.match(r"[EF][0-9]+ .*(coordination_service|client[.]h)|[WEF][0-9]+ .*preemption", line):
        line = "error: {LOST}\\n"
    print(line, end="", file=sys.stderr, flush=True)
    if line.startswith("error: "):
        break
for line in sys.stdin:
    pass
"""


class Part(NamedTuple):
    """One of the equal parts of a batch."""

    number: int = 0
    parts: int = 1

    def of(self, size: int) -> slice:
        """Return where it is in a batch of so many images."""
        share = size // self.parts
        return slice(self.number * share, (self.number + 1) * share)


WHOLE = Part()


class Workers(NamedTuple):
    """How many there are, and which of them this process has."""

    devices: int = 1  # of each process
    processes: int = 1

    @property
    def total(self) -> int:
        """The number of devices of all processes."""
        return self.devices * self.processes

    @property
    def part(self) -> Part:
        """The part of each batch that this process reads."""
        if self.processes == 1:
            return WHOLE
        import jax

        return Part(jax.process_index(), self.processes)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.part.number == 0

    def meet(self) -> None:
        """Find the devices, and the other processes. All but the first print nothing from here on.

        Call it before anything else makes JAX look for devices.

        Raises:
            UserError: devices or processes are missing.
        """
        import jax

        if self.devices > 1:
            jax.config.update("jax_num_cpu_devices", self.devices)  # where there is no GPU
        if self.processes > 1:
            self._join()
        if self.devices > 1 and (found := jax.local_device_count()) < self.devices:
            raise UserError(f"runtime.devices is {self.devices}, but this process finds {found}")

    def _join(self) -> None:
        import jax

        _filter_stderr()
        number = os.environ.get(PROCESS)
        try:
            jax.distributed.initialize(
                os.environ.get(ADDRESS),
                self.processes,
                int(number) if number else None,
                # A scheduler that starts a process for each device gives each its own.
                local_device_ids=range(self.devices) if self.devices > 1 else None,
                initialization_timeout=MEETING_SECONDS,
                heartbeat_timeout_seconds=SILENT_SECONDS,
                shutdown_timeout_seconds=WRITING_SECONDS,
            )
        except (ValueError, IndexError, RuntimeError) as error:
            raise UserError(
                f"runtime.processes is {self.processes}, and they do not meet: start each under "
                f"Slurm, or with {ADDRESS}=<host of the first>:<port> and {PROCESS}=<its number "
                f"from 0> ({one_line(error)})"
            ) from None
        finally:
            atexit.register(_end)
        if not self.is_first:
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115

    @contextmanager
    def together(self) -> Iterator[None]:
        """Train with the other processes. At the end, wait until all have come to it.

        Raises:
            UserError: another process was lost.
        """
        if self.processes == 1:
            yield
            return
        import jax

        try:
            yield
            jax.distributed.shutdown()
        except (ValueError, RuntimeError) as error:  # JAX raises the one or the other
            if re.search("gloo|nccl|UNAVAILABLE|coordination", str(error), re.IGNORECASE):
                raise UserError(f"{LOST} ({one_line(error)})") from None
            raise
        atexit.unregister(_end)

    def first_says(self, text: str) -> str:
        """Return to all processes the text of the first. Each calls this, in the same order."""
        if self.processes == 1:
            return text
        from jax.experimental import multihost_utils

        content = np.frombuffer(text.encode().ljust(LONGEST), np.uint8)
        return multihost_utils.broadcast_one_to_all(content).tobytes().decode().rstrip()

    @contextmanager
    def sharing(self, model: keras.Model) -> Iterator[None]:
        """Let all devices share each batch that a model is fitted to in the block.

        The model is built before, by each process alone, so that a frozen trunk below it stays
        there.
        """
        if self.total == 1:
            yield
            return
        import jax
        import keras

        devices = [
            device
            for process in range(self.processes)
            for device in jax.local_devices(process)[: self.devices]
        ]
        with keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False).scope():
            for variable in model.variables:
                variable._initialize(variable.numpy())  # anew, with a copy on every device
            yield


ALONE = Workers()


def _filter_stderr() -> None:
    """Let a process of its own print what this one, its C++ parts included, says of errors."""
    read, write = os.pipe()
    subprocess.Popen([sys.executable, "-c", FILTER], stdin=read, start_new_session=True)
    os.dup2(write, 2)
    os.close(read)
    os.close(write)


def _end() -> None:
    """End a process that fails. By itself JAX waits for the others, which wait for this one."""
    sys.stdout.flush()
    os._exit(1)
