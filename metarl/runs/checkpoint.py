"""Checkpoints that survive a kill at any moment, and are never read when a byte of them is wrong.

A checkpoint is a folder `it_00001230/` of `tensors.safetensors`, `state.json` and `manifest.json`,
which holds SHA-256 and size of the other two. Neither safetensors nor JSON has a checksum of its
own: of 1,000 damaged `.safetensors` files 421 loaded with wrong content. Nothing is ever pickled.

The replay store of a learner (`metarl.core.learner.HasReplay`) is not copied into every
checkpoint. Its entries stand in segments in `replay/`, beside the checkpoints that share them; the
manifest lists the segments of its checkpoint. A segment is written before the first manifest that
lists it, and removed after the last.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from metarl.core.errors import CheckpointError, ResourceError
from metarl.core.machine.files import parse_json
from metarl.functional.params import find_non_finite
from metarl.runs.folder import ASIDE, list_checkpoints, list_names, sweep
from metarl.runs.storage import (
    Damaged,
    Segment,
    fingerprint,
    fsync_directory,
    parse_segments,
    parse_tensors,
    read_bytes,
    read_entries,
    read_verified,
    remove_segments,
    to_bytes,
    write_new,
)

_FORMAT = 1
_TENSORS, _STATE, _MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
REPLAY = "replay"
"""Folder of the segments, beside the checkpoints."""


@dataclass(frozen=True)
class Checkpoint:
    """State of a run at the end of an iteration.

    Attributes:
        step: The iteration that comes next.
        tensors: By name, on the CPU, of the dtypes and shapes that were saved.
        state: The rest, as JSON holds it.
        replay: All entries of the learner's store, by name; empty if there are none.
        segments: Where these entries are on the disk.
        settings: Text of the settings of the run by name; empty in those of older versions.
    """

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    replay: dict[str, Tensor] = field(default_factory=dict)
    segments: tuple[Segment, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)


def save(
    directory: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    *,
    keep: int = 3,
    segments: Sequence[Segment] = (),
    settings: Mapping[str, str] | None = None,
) -> Path:
    """Writes a checkpoint so that a reader sees all of it or nothing.

    The files are written aside, every file and folder is flushed to the disk, and one rename makes
    the checkpoint visible. It replaces a checkpoint of the same step and those of later steps,
    which the run abandoned when it resumed from an older one.

    Args:
        directory: Folder of the run's checkpoints; one process writes there at a time.
        step: >= 0, the iteration that comes next.
        tensors: By name, on any device.
        state: Dicts with text keys, lists, texts, numbers, booleans and None; floats are finite.
        keep: Newest checkpoints that stay, >= 1.
        segments: Of the learner's replay store, as `append_entries` wrote them to `replay/`.
        settings: Text of the settings of the run by name.

    Returns:
        The checkpoint's folder.

    Raises:
        ValueError: JSON would change `state`; the message names the entry, and nothing has been
            written.
        ResourceError: The disk refuses; the older checkpoints are unchanged.
    """
    if step < 0 or keep < 1:
        raise ValueError(f"step = {step} must be >= 0 and keep = {keep} at least 1")
    _refuse_what_json_changes(state, "state")
    record = {"format": _FORMAT, "step": step, "state": dict(state), **_of_settings(settings)}
    files = {
        _TENSORS: to_bytes(tensors),
        _STATE: _to_json(record),
    }
    marks = {name: fingerprint(content) for name, content in files.items()}
    manifest: dict[str, Any] = {"format": _FORMAT, "step": step, "files": marks}
    if segments:
        manifest[REPLAY] = [segment.record() for segment in segments]
    files[_MANIFEST] = _to_json(manifest)
    try:
        return _write(directory, step, files, keep)
    except OSError as error:
        text = f"{directory}: {error.strerror or error}; older checkpoints are unchanged"
        raise ResourceError(text) from error


def _of_settings(settings: Mapping[str, str] | None) -> dict[str, Any]:
    return {} if settings is None else {"settings": dict(settings)}


def load_newest(
    directory: Path,
    *,
    report: Callable[[str], None] | None = None,
    needs_finite: bool = False,
) -> Checkpoint:
    """Reads the newest checkpoint whose every byte verifies.

    Args:
        directory: Folder of the run's checkpoints.
        report: Called with one line for each newer checkpoint that is passed over, also for those
            that were renamed or are links to nothing; by default the line is a warning.
        needs_finite: Also pass over a checkpoint with a number that is not finite; older versions
            saved such states of a learner.

    Raises:
        CheckpointError: No checkpoint verifies; the message names the folder, the fault of each
            checkpoint and a hint.
    """
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no folder of checkpoints; give the folder of a run")
    checkpoints = list_checkpoints(directory)
    if not checkpoints:
        faults = _find_strays(directory, (-1, 0))
        text = f"holds no checkpoint ({'; '.join(faults)})" if faults else "holds no checkpoint"
        hint = "restore it or start a new run" if faults else "start the run anew"
        raise CheckpointError(f"{directory}: {text}; {hint}")
    faults = []
    for step, version, path in reversed(checkpoints):
        try:
            checkpoint = _load(path, step)
            if needs_finite and (name := find_non_finite(checkpoint.tensors)):
                raise Damaged(f"{name!r} is not finite")
        except Damaged as damage:
            faults.append(f"{path.name}: {damage}")
            continue
        for fault in [*faults, *_find_strays(directory, (step, version))]:
            line = f"{directory}: passed over {fault}; going on from {path.name}"
            report(line) if report else warnings.warn(line, stacklevel=2)
        return checkpoint
    hint = "restore the folder from a copy or start the run anew"
    raise CheckpointError(f"{directory}: no checkpoint verifies ({'; '.join(faults)}); {hint}")


def _find_strays(directory: Path, chosen: tuple[int, int]) -> list[str]:
    """Returns the fault of each checkpoint newer than (step, version) that cannot be a candidate.

    These are links to nothing, files, and folders that were renamed, as their manifest shows.
    """
    known = {path: (step, version) for step, version, path in list_names(directory)}
    faults = []
    for path in sorted(directory.iterdir()):
        if path in known and not path.is_dir():
            if known[path] > chosen:
                fault = "is a link to nothing" if path.is_symlink() else "is no folder"
                faults.append(f"{path.name}, which {fault}")
        elif path.name != REPLAY and not path.name.startswith(ASIDE):
            step, own = _find_step(path), known.get(path, (-1, 0))
            if step is not None and step > chosen[0] and own <= chosen:
                faults.append(f"{path.name}, which is that of iteration {step} and was renamed")
    return faults


def _find_step(path: Path) -> int | None:
    """Returns the step in the manifest of a folder, None if it has none that can be read."""
    try:
        step = _read_manifest(path).get("step")
    except Damaged:
        return None
    return step if isinstance(step, int) else None


def _load(path: Path, step: int) -> Checkpoint:
    manifest = _read_manifest(path)
    marks = manifest.get("files")
    if manifest.get("step") != step or not isinstance(marks, dict):
        raise Damaged(f"{_MANIFEST} is not of this checkpoint")
    if set(marks) != {_TENSORS, _STATE}:
        raise Damaged(f"{_MANIFEST} does not list {_TENSORS} and {_STATE}")
    content = {name: read_verified(path / name, mark) for name, mark in marks.items()}
    record = _parse(content[_STATE], _STATE)
    tensors = parse_tensors(content[_TENSORS], _TENSORS)
    segments = parse_segments(manifest.get(REPLAY, []))
    replay = read_entries(path.parent / REPLAY, segments)
    settings = record.get("settings", {})
    return Checkpoint(step, tensors, record["state"], replay, segments, settings)


def _read_manifest(path: Path) -> dict[str, Any]:
    """Reads the manifest of a checkpoint's folder.

    Raises:
        Damaged: It is not what was written, or of another format.
    """
    content = read_bytes(path / _MANIFEST)
    manifest = _parse(content, _MANIFEST)
    try:
        intact = _to_json(manifest) == content
    except ValueError:
        intact = False
    if not intact:
        raise Damaged(f"{_MANIFEST} is not what was written")
    if not set(manifest) <= {"format", "step", "files", REPLAY}:
        raise Damaged(f"{_MANIFEST} has unknown entries")
    if manifest.get("format") != _FORMAT:
        raise Damaged(f"{_MANIFEST} has format {manifest.get('format')!r}, not {_FORMAT}")
    return manifest


def _parse(content: bytes, name: str) -> dict[str, Any]:
    try:
        record = parse_json(content)
    except ValueError as error:  # of JSON or of UTF-8
        raise Damaged(f"{name} cannot be read ({error})") from error
    if not isinstance(record, dict):
        raise Damaged(f"{name} holds no record")
    return record


# ------------------------------------------------------------------------------------------ writing


def _write(directory: Path, step: int, files: Mapping[str, bytes], keep: int) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    sweep(directory)
    versions = [version for old, version, _ in list_names(directory) if old == step]
    # A full folder cannot be renamed onto another in one step: the newer of two gets a number.
    suffix = f"_{max(versions) + 1}" if versions else ""
    target = directory / f"it_{step:08d}{suffix}"
    aside = directory / f"{ASIDE}{target.name}"
    aside.mkdir()
    for name, content in files.items():
        write_new(aside / name, content)
    fsync_directory(aside)
    os.rename(aside, target)
    fsync_directory(directory)
    _remove_old(directory, step, target, keep)
    return target


def _to_json(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, allow_nan=False, ensure_ascii=False, indent=1).encode()


def _refuse_what_json_changes(value: Any, name: str) -> None:
    """Raises a ValueError for an entry that JSON refuses, or silently turns into another type."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if type(key) is not str:
                raise ValueError(f"{name} has the key {key!r}, which is no text")
            _refuse_what_json_changes(item, f"{name}[{key!r}]")
    elif type(value) is list:
        for index, item in enumerate(value):
            _refuse_what_json_changes(item, f"{name}[{index}]")
    elif type(value) is float and not math.isfinite(value):
        raise ValueError(f"{name} = {value} is not finite; save it in a tensor")
    elif value is not None and type(value) not in (bool, int, float, str):
        raise ValueError(f"{name} is a {type(value).__name__}, which JSON cannot give back")


def _remove_old(directory: Path, step: int, newest: Path, keep: int) -> None:
    """Removes all checkpoints but the newest `keep`, and the segments that only those needed.

    Checkpoints of the newest one's step and of later steps are replaced by it, so they go too. Of a
    link only the link goes.
    """
    checkpoints = list_names(directory)
    older = [path for old, _, path in list_checkpoints(directory) if old < step]
    kept = {newest, *older[max(0, len(older) - (keep - 1)) :]}
    for _, _, path in checkpoints:
        if path not in kept:
            # Renamed first: a kill in mid-removal must not leave half a checkpoint under its name.
            os.rename(path, directory / f"{ASIDE}old-{path.name}")
    sweep(directory)
    fsync_directory(directory)  # a segment may go only after the last checkpoint that needs it
    remove_segments(directory / REPLAY, [s for path in kept for s in _read_segments(path)])


def _read_segments(path: Path) -> tuple[Segment, ...]:
    """Returns the segments of a checkpoint; none for one that cannot be loaded anyway."""
    try:
        return parse_segments(_read_manifest(path).get(REPLAY, []))
    except Damaged:
        return ()
