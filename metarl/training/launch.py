"""Place of this process among those that torchrun has started. Imports no torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass

from metarl.core.errors import ConfigError, MetarlError


@dataclass(frozen=True)
class Launch:
    """Place of this process among those that train together.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
        local_rank: Number of this process among those of its machine.
        local_size: Number of processes of its machine.
        address: Host and port at which the processes meet; empty for a single one.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    address: str = ""

    @property
    def is_first(self) -> bool:
        """This process writes the run folder, and speaks."""
        return self.rank == 0


_HINT = "start with torchrun, which sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT"


def read_launch(variables: Mapping[str, str] | None = None) -> Launch:
    """Reads the variables that torchrun sets; without WORLD_SIZE, or with 1, a process is alone.

    Args:
        variables: By default those of the process.

    Raises:
        ConfigError: One is missing or no number of its range; names it.
    """
    variables = os.environ if variables is None else variables
    if not variables.get("WORLD_SIZE"):
        return Launch()
    size = _read_number(variables, "WORLD_SIZE", 1, 2**16)
    if size == 1:
        return Launch()
    rank = _read_number(variables, "RANK", 0, size - 1)
    # without them all processes are on one machine
    local_size, local_rank = size, rank
    if variables.get("LOCAL_WORLD_SIZE"):
        local_size = _read_number(variables, "LOCAL_WORLD_SIZE", 1, size)
        local_rank = _read_number(variables, "LOCAL_RANK", 0, local_size - 1)
    if not (host := variables.get("MASTER_ADDR", "")):
        raise ConfigError(f"WORLD_SIZE is {size} and MASTER_ADDR is missing; {_HINT}")
    port = _read_number(variables, "MASTER_PORT", 1, 2**16 - 1)
    return Launch(rank, size, local_rank, local_size, f"{host}:{port}")


def _read_number(variables: Mapping[str, str], name: str, low: int, high: int) -> int:
    text = variables.get(name, "")
    if not text:
        raise ConfigError(f"WORLD_SIZE is set and {name} is missing; {_HINT}")
    if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
        raise ConfigError(f"{name} = {text!r}: must be a number from {low} to {high}; {_HINT}")
    return int(text)


def share_cores(launch: Launch | None = None) -> int:
    """Returns the cores of this process: those that it may use, divided among its machine's."""
    launch = launch or read_launch()
    return max(1, len(os.sched_getaffinity(0)) // launch.local_size)


@contextmanager
def speak_once(launch: Launch) -> Generator[None]:
    """Lets only the first process print, and the first one of each machine name its error.

    Raises:
        SystemExit: In place of a MetarlError, where another process names it.
    """
    with open(os.devnull, "w", encoding="utf-8") as silence:
        with redirect_stdout(sys.stdout if launch.is_first else silence):
            try:
                yield
            except MetarlError as error:
                if launch.local_rank == 0:
                    raise
                raise SystemExit(error.exit_code) from error
