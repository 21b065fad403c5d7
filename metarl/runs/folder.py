"""Run folders: names, creation, checkpoints in them, and the lock of the process that trains."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from metarl.core.errors import ConfigError, ResourceError, RunExists
from metarl.core.files import clean_name, split_robot_file


def choose_run_dir(env: str, algo: str, seed: int, *, root: Path = Path("runs")) -> Path:
    """Returns the path of a folder that does not exist: `<env>_<algo>_s<seed>_<UTC time>`.

    Args:
        env: Name of the environment; characters that do not fit a file name are replaced.
        algo: Name of the learner, likewise.
        seed: Seed of the run.
        root: Folder of the runs.
    """
    time = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    split = split_robot_file(env)
    env = f"{split[0].stem}-{split[1]}" if split else env
    name = f"{clean_name(env) or 'env'}_{clean_name(algo)}_s{seed}_{time}"
    path = root / name
    count = 1
    while path.exists():
        count += 1
        path = root / f"{name}-{count}"
    return path


def create(run_dir: Path) -> Path:
    """Creates the folder of a new run and returns its path.

    Raises:
        RunExists: The path exists; it is left as it is.
        ResourceError: The folder cannot be created; the message has the cause.
    """
    try:
        run_dir.mkdir(parents=True)
    except FileExistsError as error:
        hint = f"choose another --run-dir, or continue it with --resume {run_dir}"
        raise RunExists(f"{run_dir} exists and is never overwritten; {hint}") from error
    except OSError as error:
        raise ResourceError(f"{run_dir} cannot be created: {error.strerror or error}") from error
    return run_dir


_CHECKPOINT = re.compile(r"it_(\d{8,})(?:_(\d+))?")


def list_checkpoints(directory: Path) -> list[tuple[int, int, Path]]:
    """Returns (step, version, folder) of every checkpoint of a folder, oldest first."""
    matches = [(_CHECKPOINT.fullmatch(path.name), path) for path in directory.iterdir()]
    return sorted((int(m[1]), int(m[2] or 0), path) for m, path in matches if m and path.is_dir())


def newest_step(run_dir: Path) -> int | None:
    """Returns the step of a run's newest checkpoint by its name, None without any.

    Verifies nothing, and imports no torch.
    """
    directory = run_dir / "checkpoints"
    checkpoints = list_checkpoints(directory) if directory.is_dir() else []
    return checkpoints[-1][0] if checkpoints else None


@contextmanager
def lock(run_dir: Path, use: str = "trained") -> Generator[None]:
    """Locks a folder, so that only this process works in it; the lock ends with the process.

    Args:
        run_dir: The folder.
        use: The work, for the message.

    Raises:
        ConfigError: Another process works there.
    """
    handle = os.open(run_dir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            hint = "stop it or wait for its end"
            raise ConfigError(f"{run_dir} is being {use} by another process; {hint}") from error
        except OSError:
            pass  # some network file systems cannot lock folders; there the user must take care
        yield
    finally:
        os.close(handle)
