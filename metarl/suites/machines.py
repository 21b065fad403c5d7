"""The machines that run trainings: this one, or those of a cluster."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from metarl.suites.processes import Machines, ThisMachine


@contextmanager
def open_machines(address: str | None) -> Generator[Machines]:
    """Yields the machines of a cluster of Ray at an address, or without one this machine.

    Raises:
        ResourceError: Ray is not installed, or nothing answers at the address.
    """
    if address is None:
        yield ThisMachine()
        return
    from metarl.suites.ray_machines import RayMachines

    machines = RayMachines(address)
    try:
        yield machines
    finally:
        machines.close()
