"""Run folders: names, creation, checkpoints in them, and the lock of the process that trains."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from metarl.core.errors import ConfigError, ResourceError, RunExists
from metarl.core.machine.files import clean_name, load_json, split_robot_file, write_atomically
from metarl.core.messages import notify

ROBOT = "robot"
"""Folder of a run with a copy of the user's robot."""

DEFINITION = "definition.json"
"""File of such a folder with the number of the robot's definition."""

FILMS = "films.json"
"""File with the iteration and the digest of each film of a policy."""


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


def create(run_dir: Path, settings: str = "") -> Path:
    """Creates the folder of a new run, or takes one in which nothing was trained.

    Args:
        run_dir: The folder.
        settings: Content of config.yaml of the new run.

    Returns:
        The folder.

    Raises:
        RunExists: The path exists; it is left as it is.
        ResourceError: The folder cannot be created; the message has the cause.
    """
    try:
        run_dir.mkdir(parents=True)
    except FileExistsError as error:
        if not is_untrained(run_dir, settings):
            raise exists_already(run_dir) from error
    except OSError as error:
        raise ResourceError(f"{run_dir} cannot be created: {error.strerror or error}") from error
    return run_dir


def exists_already(run_dir: Path) -> RunExists:
    """Returns the error of a new run whose folder is not free."""
    hint = "choose another --run-dir"
    if newest_step(run_dir) is not None:
        hint += f", or continue it with --resume {shlex.quote(str(run_dir))}"
    return RunExists(f"{run_dir} exists and is never overwritten; {hint}")


_OF_A_RUN = {"run.json", "metrics.jsonl", "checkpoints", "published.json"}
"""Names of which a run folder has one, and a folder of runs none."""


def check_parent(flag: str, path: Path) -> None:
    """Checks a path that is to become, or is, a folder of run folders.

    Raises:
        ConfigError: It is a run itself, a file, or leads through one; names the flag and the path.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{flag} {path}: is a file; name a folder")
    if file := next((each for each in path.absolute().parents if each.is_file()), None):
        raise ConfigError(f"{flag} {path}: {file} is a file; name another folder")
    if found := next((name for name in sorted(_OF_A_RUN) if (path / name).exists()), None):
        hint = "name another folder, in which the runs get their own"
        raise ConfigError(f"{flag} {path}: is a run itself, as it has {found}; {hint}")


_AT_START = re.compile(
    r"config\.yaml|run\.json|metrics\.jsonl|checkpoints|robot|"
    r"\.(?:config\.yaml|run\.json|metrics\.jsonl)\.\d+-[0-9a-f]{8}|\.robot\.\d+"
)
"""Names in the folder of a run that was stopped before its first checkpoint."""


def is_untrained(run_dir: Path, settings: str | None = None) -> bool:
    """Returns whether a folder has only what a run writes before its first checkpoint.

    Such a folder of a killed run, or an empty one, holds nothing that a new run could destroy. A
    run.json or a robot that metarl has not written is the user's.

    Args:
        run_dir: A folder, or a path that is none.
        settings: Content of config.yaml of a new run. A config.yaml without a run.json may be a
            file of the user's, and counts only if it has this content; by default it counts.
    """
    try:
        names = os.listdir(run_dir)
        if not all(_AT_START.fullmatch(name) for name in names):
            return False
        if "metrics.jsonl" in names and (run_dir / "metrics.jsonl").stat().st_size:
            return False
        if "run.json" in names and not _is_record(run_dir / "run.json"):
            return False
        if ROBOT in names and not _is_copy(run_dir / ROBOT):
            return False
        if "checkpoints" in names and not _has_leftovers_only(run_dir / "checkpoints"):
            return False
        if settings is not None and "config.yaml" in names and "run.json" not in names:
            return (run_dir / "config.yaml").read_text(encoding="utf-8") == settings
    except (OSError, ValueError):  # a file that cannot be read is not one of metarl's
        return False
    return True


def _is_record(path: Path) -> bool:
    """Returns whether a file is the run.json of a run."""
    record = load_json(path)
    return isinstance(record, dict) and {"contract", "env", "versions"} <= record.keys()


def _is_copy(robot: Path) -> bool:
    """Returns whether a folder is the copy of a robot that a run keeps."""
    record = load_json(robot / DEFINITION)
    return not robot.is_symlink() and isinstance(record, dict) and record.keys() == {"definition"}


def _has_leftovers_only(checkpoints: Path) -> bool:
    """Returns whether a folder of checkpoints has no more than the leftovers of killed saves."""
    return all(name.startswith(ASIDE) for name in os.listdir(checkpoints))


def clear(run_dir: Path, settings: str = "") -> None:
    """Empties the folder of a run in which nothing was trained; the caller has locked it.

    Raises:
        RunExists: Something was trained meanwhile; the folder is left as it is.
    """
    if not is_untrained(run_dir, settings):
        raise exists_already(run_dir)
    paths = list(run_dir.iterdir())
    if paths:
        text = "was started before, and stopped before anything was trained; starting anew"
        notify(f"{run_dir} {text}")
    for path in paths:
        remove(path)


def remove(path: Path) -> None:
    """Removes a file, a folder or a link; what a link leads to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


ASIDE = ".saving-"
"""Start of the name of a file or folder that is being written or removed; no reader opens it."""


def sweep(directory: Path) -> None:
    """Removes what killed saves have left in a folder and in its folders, if there is one."""
    for path in [*directory.glob(f"{ASIDE}*"), *directory.glob(f"*/{ASIDE}*")]:
        if os.path.lexists(path):  # the folder that it is in may have gone
            remove(path)


_CHECKPOINT = re.compile(r"it_(\d{8,})(?:_(\d+))?")


def list_checkpoints(directory: Path) -> list[tuple[int, int, Path]]:
    """Returns (step, version, folder) of every checkpoint of a folder, oldest first."""
    return [each for each in list_names(directory) if each[2].is_dir()]


def list_names(directory: Path) -> list[tuple[int, int, Path]]:
    """Returns (step, version, path) of all that has the name of a checkpoint, oldest first.

    A path may also be a file, or a link to nothing.
    """
    matches = [(_CHECKPOINT.fullmatch(path.name), path) for path in directory.iterdir()]
    return sorted((int(m[1]), int(m[2] or 0), path) for m, path in matches if m)


def newest_step(run_dir: Path) -> int | None:
    """Returns the step of a run's newest checkpoint by its name, None without any.

    Verifies nothing, and imports no torch.
    """
    directory = run_dir / "checkpoints"
    checkpoints = list_checkpoints(directory) if directory.is_dir() else []
    return checkpoints[-1][0] if checkpoints else None


# --- films ----------------------------------------------------------------------------------------


def record_films(output: Path, films: Iterable[Path], iteration: int) -> None:
    """Notes of which iteration the films of a policy are, with their digests, in films.json.

    Args:
        output: Folder of what is made of the policy.
        films: Files in it.
        iteration: Of the checkpoint.
    """
    facts = {
        path.relative_to(output).as_posix(): {"iteration": iteration, "sha256": _digest(path)}
        for path in films
    }
    content = json.dumps({**_read_films(output), **facts}, indent=1)
    write_atomically(output / FILMS, content + "\n")


def is_old_film(run_dir: Path, film: Path, newest: int | None) -> bool:
    """Returns whether a film is of another checkpoint than the newest one.

    The times of files decide where films.json says nothing of it: it is of an older version, or
    was replaced.

    Args:
        run_dir: The run.
        film: The file, in videos/ of the run.
        newest: Iteration of the newest checkpoint.
    """
    output = film.parent.parent
    record = _read_films(output).get(film.relative_to(output).as_posix())
    if isinstance(record, dict) and record.get("sha256") == _digest(film):
        return record.get("iteration") != newest
    return is_older_than_checkpoints(run_dir, film)


def is_older_than_checkpoints(run_dir: Path, path: Path) -> bool:
    """Returns whether a file was written before the newest checkpoint, by the times of files."""
    return path.stat().st_mtime < (run_dir / "checkpoints").stat().st_mtime


def _read_films(output: Path) -> dict[str, Any]:
    """Returns films.json, {} where it cannot be read."""
    try:
        content = load_json(output / FILMS)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- the lock -------------------------------------------------------------------------------------


def is_locked(run_dir: Path) -> bool:
    """Returns whether a process works in a folder, if it exists."""
    if not run_dir.exists():
        return False
    try:
        with lock(run_dir):
            return False
    except ConfigError:
        return True


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
