"""Files that survive a kill and are verified when read, and the segments of a replay store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from metarl.core.env import supports
from metarl.core.errors import ResourceError
from metarl.core.learner import HasBoundedReplay, HasReplay
from metarl.core.machine.files import LARGEST_TEXT, Unreadable, read_file
from metarl.runs.folder import ASIDE


class Damaged(Exception):
    """A file of a checkpoint cannot be trusted; the message says why."""


def fingerprint(content: bytes) -> dict[str, Any]:
    """Returns SHA-256 and size of a file's content."""
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def write_new(path: Path, content: bytes) -> None:
    """Writes a file that does not exist yet, and flushes it to the disk."""
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def fsync_directory(path: Path) -> None:
    """Flushes the names in a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Returns tensors in the format of safetensors.

    Each is copied, because safetensors refuses tensors that share memory, such as expanded views.
    """
    copies = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    return safetensors.torch.save(copies)


def read_verified(path: Path, expected: Mapping[str, Any]) -> bytes:
    """Reads a file whose fingerprint is known.

    Raises:
        Damaged: The file cannot be read, or its content has another fingerprint.
    """
    size = expected.get("size") if isinstance(expected, Mapping) else None
    content = read_bytes(path, size) if isinstance(size, int) else b""
    if fingerprint(content) != expected:
        raise Damaged(f"{path.name} is not what was written")
    return content


def read_bytes(path: Path, largest: int = LARGEST_TEXT) -> bytes:
    """Reads a file of `largest` bytes at most.

    Raises:
        Damaged: It cannot be read, is larger or is no regular file.
    """
    try:
        return read_file(path, largest)
    except OSError as error:
        raise Damaged(f"{path.name}: {error.strerror or error}") from error
    except Unreadable as error:
        raise Damaged(f"{path.name} {error}") from error


def parse_tensors(content: bytes, name: str) -> dict[str, Tensor]:
    """Returns the tensors in the content of the file `name`.

    Raises:
        Damaged: The content is not in the format of safetensors.
    """
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise Damaged(f"{name} cannot be read ({error})") from error


# ----------------------------------------------------------------------------------------- segments


@dataclass(frozen=True)
class Segment:
    """Neighbouring entries of a replay store in a file of their own, which never changes.

    Attributes:
        name: The file's name; it holds part of the SHA-256, so other content has another name.
        start: First entry.
        stop: Entry after the last.
        sha256: Of the file.
        size: Of the file [bytes].
    """

    name: str
    start: int
    stop: int
    sha256: str
    size: int

    def record(self) -> dict[str, Any]:
        """Returns the segment as the manifest of a checkpoint lists it."""
        return asdict(self)


def append_entries(
    folder: Path, learner: HasReplay, segments: Sequence[Segment]
) -> tuple[Segment, ...]:
    """Writes the entries of a learner's store that no segment holds yet.

    Segments of entries that the learner has forgotten are left out, and remain for the older
    checkpoints that list them.

    Args:
        folder: Folder of the segments.
        learner: Owner of the store.
        segments: Segments of the entries that are saved already, without gaps.

    Returns:
        The segments of all entries that the learner holds, and perhaps of some before them.

    Raises:
        ValueError: The store has fewer entries than the segments, or reads another number.
        ResourceError: The disk refuses.
    """
    start, stop = (segments[-1].stop if segments else 0), learner.replay_size()
    if stop < start:
        raise ValueError(f"the replay store has {stop} entries, but {start} are saved")
    if stop == start:
        return tuple(segments)
    if supports(learner, HasBoundedReplay):
        oldest = learner.replay_start()
        segments, start = [s for s in segments if s.stop > oldest], max(start, oldest)
    entries = learner.read_replay(start, stop)
    for name, value in entries.items():
        if len(value) != stop - start:
            raise ValueError(f"entries {start}..{stop} of {name} are {len(value)} entries")
    content = to_bytes(entries)
    mark = fingerprint(content)
    segment = Segment(_name(start, stop, mark["sha256"]), start, stop, **mark)
    try:
        _write_segment(folder, segment.name, content)
    except OSError as error:
        text = f"{folder}: {error.strerror or error}; older checkpoints are unchanged"
        raise ResourceError(text) from error
    return (*segments, segment)


def _name(start: int, stop: int, sha256: str) -> str:
    return f"{start:010d}-{stop:010d}-{sha256[:16]}.safetensors"


def _write_segment(folder: Path, name: str, content: bytes) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True)
        fsync_directory(folder.parent)
    aside = folder / f"{ASIDE}{name}"
    aside.unlink(missing_ok=True)
    write_new(aside, content)
    os.replace(aside, folder / name)  # a killed save may have left the same segment, or half of it
    fsync_directory(folder)


def read_entries(folder: Path, segments: Iterable[Segment]) -> dict[str, Tensor]:
    """Reads all entries of segments; no segments give an empty dict.

    Raises:
        Damaged: A segment is missing or is not what was written.
    """
    parts = []
    for segment in segments:
        expected = {"sha256": segment.sha256, "size": segment.size}
        content = read_verified(folder / segment.name, expected)
        parts.append(parse_tensors(content, segment.name))
    names = parts[0] if parts else {}
    return {name: torch.cat([part[name] for part in parts]) for name in names}


def parse_segments(records: Any) -> tuple[Segment, ...]:
    """Reads what `Segment.record` gave.

    Raises:
        Damaged: The records are of another form.
    """
    try:
        segments = tuple(Segment(**record) for record in records)
        names = [_name(s.start, s.stop, s.sha256) for s in segments]
    except (TypeError, ValueError) as error:
        raise Damaged(f"the list of segments cannot be read ({error})") from error
    for segment, name in zip(segments, names, strict=True):
        if segment.name != name:
            raise Damaged(f"segment {segment.name} is not what was written")
    return segments


def remove_segments(folder: Path, needed: Iterable[Segment]) -> None:
    """Removes every file of the folder but the needed segments; folders are not ours, and stay."""
    names = {segment.name for segment in needed}
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in names and (path.is_symlink() or not path.is_dir()):
            path.unlink()
