"""Files: reading within limits, atomic writes, and names of environments that stand for a file.

YAML files have a module of their own, because an exported policy needs no PyYAML.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
import stat
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from metarl.core.errors import ConfigError, ResourceError

LARGEST_TEXT = 256_000_000
"""Size of the largest JSON file that is read [bytes]: a metrics.jsonl of 100,000 iterations."""

DEEPEST = 50
"""Levels of lists and mappings within each other that a file may have."""


class Unreadable(ValueError):
    """A file is not what can be read safely; the message says why, in one line."""


def read_file(path: Path, largest: int = LARGEST_TEXT) -> bytes:
    """Reads a regular file; waits for no pipe and reads no device.

    Raises:
        OSError: The file system refuses, also for links that go round in a circle.
        Unreadable: It is no regular file, or larger than `largest` [bytes], or the path cannot be
            one.
    """
    if "\0" in str(path):
        raise Unreadable("is no path, as it has a zero character")
    # without O_NONBLOCK opening a pipe would wait for its writer
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with open(handle, "rb") as file:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise Unreadable("is no regular file")
        if facts.st_size > largest:
            raise Unreadable(f"is larger than {largest:,} bytes")
        content = file.read(largest + 1)  # a file of /proc has a size of 0, and some grow
    if len(content) > largest:
        raise Unreadable(f"is larger than {largest:,} bytes")
    return content


# --- JSON ----------------------------------------------------------------------------------------


def load_json(path: Path) -> Any:
    """Reads a JSON file; see `read_file` and `parse_json` for limits and errors."""
    return parse_json(read_file(path))


def parse_json(text: str | bytes) -> Any:
    """Parses strict JSON: at most DEEPEST levels, and numbers are finite.

    Raises:
        Unreadable: It is no such JSON.
    """
    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        _check_depth(text)
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_to_finite)
    except (ValueError, RecursionError) as error:
        raise Unreadable(" ".join(str(error).split())) from error


_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= DEEPEST:
        return
    depth = 0
    for bracket in re.findall(r"[][{}]", _STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > DEEPEST:
            raise Unreadable(f"has more than {DEEPEST} levels")


def _refuse_constant(name: str) -> float:
    raise Unreadable(f"has the number {name}")


def _to_finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise Unreadable(f"has the number {text:.20}")
    return value


# --- writing -------------------------------------------------------------------------------------


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces the content of a file; a killed process leaves the old one or the new one whole.

    What it writes aside is a new file of an unforeseeable name, so that no link is followed. Later
    writes of the same file remove what killed ones have left.
    """
    data = content.encode() if isinstance(content, str) else content
    aside = f".{path.name}.{os.getpid()}-"
    temporary = path.with_name(aside + secrets.token_hex(4))
    _sweep(path)
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:  # that of a full disk names no file
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):  # a disk that is read-only refuses this too
            temporary.unlink(missing_ok=True)


@contextmanager
def name_disk_failures(path: Path) -> Generator[None]:
    """Turns a failure of the disk into an error that names the file.

    Raises:
        ResourceError: For an OSError.
    """
    try:
        yield
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "check its folder and disk")
        raise ResourceError(f"{path}: {error.strerror or error}; {hint}") from error


_HINTS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room on its disk"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "make its folder writable"),
}
"""Hints for failures of the disk by their number."""


def require_writable(folder: Path, content: str) -> None:
    """Requires, before a long work, that its result can be written to a folder.

    Args:
        folder: The folder.
        content: What is to be written, for the message.

    Raises:
        ResourceError: It cannot; names the folder.
    """
    if not os.access(folder, os.W_OK | os.X_OK):
        hint = "make the folder writable, or copy it"
        raise ResourceError(f"{folder}: {content} cannot be written to it; {hint}")


JSON, CSV, HTML = (".json",), (".csv",), (".html", ".htm")
"""Suffixes of formats, for `check_output`."""


def check_output(flag: str, path: Path | None, suffixes: Sequence[str] = ()) -> None:
    """Checks before the work that its result can be written to a file; None is no file.

    Args:
        flag: Names the path.
        path: The file.
        suffixes: Those of its format, in small letters; a name without one fits too.

    Raises:
        ConfigError: The path is a folder, is in none, or has the suffix of another format; names
            the flag and the path.
    """
    if path is None:
        return
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{flag} {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise ConfigError(f"{flag} {path}: is a folder; name a file")
    if suffixes and path.suffix and path.suffix.lower() not in suffixes:
        raise ConfigError(f"{flag} {path}: must end in {' or '.join(suffixes)}")


def _sweep(path: Path) -> None:
    """Removes what killed writes of a file have left; those of a living process stay."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(\d+)(?:-[0-9a-f]{{8}})?")
    before = time.time() - 60.0  # process numbers of another machine or container mean nothing
    try:
        names = os.listdir(path.parent)
    except OSError:
        return  # the write itself says what is wrong
    for name in names:
        match, left = pattern.fullmatch(name), path.with_name(name)
        with suppress(OSError):  # another process may have removed it
            if match and not _is_alive(int(match[1])) and left.lstat().st_mtime < before:
                left.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # it is another user's
    return True


# --- names ---------------------------------------------------------------------------------------


def clean_name(text: str) -> str:
    """Returns a text as a file name of letters, digits and "_.+-"; empty if nothing is left.

    "/" and ":" in the name of an environment would make folders or hosts.
    """
    return re.sub(r"[^\w.+-]+", "-", text).strip("-.")


def split_robot_file(name: str) -> tuple[Path, str] | None:
    """Splits the name `my_robot.yaml:goal-variation` of an environment; None for other names."""
    file, _, parts = name.rpartition(":")
    return (Path(file), parts) if file.endswith((".yaml", ".yml")) else None


PACKAGED = (
    *("a1", "a2", "aliengo", "anymal-b", "anymal-c", "b2", "g1", "go1", "go2", "panda", "spot"),
    "ur5e",
)
"""Names of the robots whose models come from an installed package (`envs/robots/included`)."""

PACKAGED_ARMS = ("panda", "ur5e")
"""Those of them that are arms."""


def split_packaged_robot(name: str) -> tuple[str, str] | None:
    """Splits the name `go2-goal-variation` of an environment; None for other names."""
    for robot in PACKAGED:
        if name.startswith(f"{robot}-"):
            return robot, name.removeprefix(f"{robot}-")
    return None
