"""The connection to a cluster of Ray."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from metarl.core.errors import ResourceError, require_package

FLAG, USER = "--sampler.address", "--sampler.backend ray"
"""Flags of a training, for messages."""

CONNECT_LIMIT = 10.0
"""Time in which an address must accept a connection [s]."""

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def connect(address: str, flag: str = FLAG, user: str = USER) -> Any:
    """Connects to a cluster, or starts one of this machine; returns the package.

    Args:
        address: "local" starts one of this machine; "auto" is that of RAY_ADDRESS or one that
            `ray start` has started here; or host:port of the head of a cluster.
        flag: What has the address as its value, for messages.
        user: What needs Ray, for messages.

    Raises:
        ResourceError: Ray is not installed, or nothing answers at the address.
    """
    ray = require_package("ray", "ray", user)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    options = {"include_dashboard": False, "num_cpus": len(os.sched_getaffinity(0))}
    if address != "local":
        options = {"address": _find_address(address, flag)}
    with keep_signals():
        try:
            ray.init(**options, **quiet, configure_logging=False, ignore_reinit_error=True)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise ResourceError(f"{flag} {address}: {one_line(error)}") from error
    return ray


def _find_address(address: str, flag: str) -> str:
    """Returns the address of a cluster that accepts connections.

    Ray itself waits for minutes, and then ends the process.
    """
    found, subject = address, f"{flag} {address}"
    if address == "auto":
        # `ray.init(address="auto")` finds it in the same way
        services = importlib.import_module("ray._private.services")
        try:
            found = services.get_ray_address_from_environment("auto", None)
        except ConnectionError as error:
            hint = f"start one with `ray start --head`, or take {flag} local"
            reason = "no cluster of Ray runs on this machine"
            raise ResourceError(f"{subject}: {reason}; {hint}") from error
    host, _, port = found.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_LIMIT).close()
    except (OSError, ValueError) as error:
        hint = "give host:port of the head of a running cluster"
        raise ResourceError(f"{subject}: {found} does not answer ({error}); {hint}") from error
    return found


@contextmanager
def keep_signals() -> Generator[None]:
    """Restores the handlers of signals, which ray.init replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def one_line(error: BaseException) -> str:
    """Returns the last line of a message: that of the error itself in those of Ray."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:200]}" if lines else type(error).__name__
