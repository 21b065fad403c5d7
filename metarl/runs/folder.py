"""The folder of a run: its name, its making, and run.json, the record of what it was made with."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from metarl.core.errors import ConfigError, ResourceError, RunExists


def choose_run_dir(env: str, algo: str, seed: int, *, root: Path = Path("runs")) -> Path:
    """Names a folder that does not exist yet, `<env>_<algo>_s<seed>_<UTC time>`, and makes nothing."""
    # Letters, digits and . + - only: "/" and ":" of an environment's name would be folders or hosts.
    words = re.sub(r"[^\w.+-]+", "-", env).strip("-.") or "env"
    time = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    path = root / f"{words}_{algo}_s{seed}_{time}"
    count = 1
    while path.exists():
        count += 1
        path = root / f"{words}_{algo}_s{seed}_{time}-{count}"
    return path


def create(run_dir: Path) -> Path:
    """Makes the folder of a new run.

    Raises:
        RunExists: There is something of that name; it is left as it is.
        ResourceError: The folder cannot be made; the message says why.
    """
    try:
        run_dir.mkdir(parents=True)
    except FileExistsError as error:
        cure = f"choose another --run-dir, or go on with it by --resume {run_dir}"
        raise RunExists(f"{run_dir} exists and is never overwritten; {cure}") from error
    except OSError as error:
        raise ResourceError(f"{run_dir} cannot be made: {error.strerror or error}") from error
    return run_dir


@contextmanager
def lock(run_dir: Path) -> Generator[None]:
    """Makes this process the only one that trains in a folder; a process that dies gives it back.

    Raises:
        ConfigError: Another process trains there.
    """
    handle = os.open(run_dir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            cure = "stop it or wait for its end"
            raise ConfigError(f"{run_dir} is being trained by another process; {cure}") from error
        except OSError:
            pass  # some network file systems lock no folders; there the user has to take care
        yield
    finally:
        os.close(handle)


# --------------------------------------------------------------------------------------------- facts
