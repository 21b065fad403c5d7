"""Checkpoints that survive a kill at any moment, and that are never read when a byte of them is wrong.

A checkpoint is a folder `it_00001230/` of `tensors.safetensors`, `state.json` and `manifest.json`, the
SHA-256 and size of the other two. Neither safetensors nor JSON has a checksum of its own: of 1,000
damaged `.safetensors` files 421 loaded with wrong content. Nothing is ever pickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from metarl.core.errors import CheckpointError, ResourceError

_FORMAT = 1
_TENSORS, _STATE, _MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
_NAME = re.compile(r"it_(\d{8,})(?:_(\d+))?")
_ASIDE = ".saving-"
"""Start of the name of a folder that is being written or taken away; never looked at by a reader."""


@dataclass(frozen=True)
class Checkpoint:
    """What was saved.

    Attributes:
        step: The iteration that comes next.
        tensors: By name, on the CPU, of the dtypes and shapes that were saved.
        state: The JSON-able rest.
    """

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save(
    directory: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    *,
    keep: int = 3,
) -> Path:
    """Writes a checkpoint so that a reader sees all of it or nothing.

    It is written aside, every file and folder is flushed to the disk, and one rename makes it
    visible. It replaces a checkpoint of the same step, and those of later steps, which the run has
    given up when it went on from an older one.

    Args:
        directory: Folder of the run's checkpoints; one process writes there at a time.
        step: >= 0, the iteration that comes next.
        tensors: By name, of any device.
        state: Dicts with text keys, lists, texts, numbers, true, false and None; floats are finite.
        keep: Newest checkpoints that stay, >= 1.

    Returns:
        The checkpoint's folder.

    Raises:
        ValueError: `state` cannot come back from JSON as it is; the message names the entry. Nothing
            has been written.
        ResourceError: The disk refuses; the older checkpoints are as they were.
    """
    if step < 0 or keep < 1:
        raise ValueError(f"step = {step} must be >= 0 and keep = {keep} at least 1")
    _refuse_what_json_changes(state, "state")
    # A copy each: safetensors refuses tensors that share memory, such as rows of an expanded view.
    copies = {name: _detached_copy(tensor) for name, tensor in tensors.items()}
    files = {
        _TENSORS: safetensors.torch.save(copies),
        _STATE: _to_json({"format": _FORMAT, "step": step, "state": dict(state)}),
    }
    sums = {name: _fingerprint(content) for name, content in files.items()}
    files[_MANIFEST] = _to_json({"format": _FORMAT, "step": step, "files": sums})
    try:
        return _write(directory, step, files, keep)
    except OSError as error:
        kept = "older checkpoints are as they were"
        raise ResourceError(f"{directory}: {error.strerror or error}; {kept}") from error


def load_newest(directory: Path, *, report: Callable[[str], None] | None = None) -> Checkpoint:
    """Reads the newest checkpoint whose every byte verifies.

    Args:
        directory: Folder of the run's checkpoints.
        report: Is told in one line of each newer checkpoint that was passed over; by default a
            warning is given.

    Raises:
        CheckpointError: No checkpoint verifies; the message names the folder, what is wrong with
            each and the cure.
    """
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no folder of checkpoints; give the folder of a run")
    found = _found(directory)
    if not found:
        raise CheckpointError(f"{directory}: holds no checkpoint; start the run anew")
    faults = []
    for step, _, path in reversed(found):
        try:
            checkpoint = _load(path, step)
        except _Damaged as damage:
            faults.append(f"{path.name}: {damage}")
            continue
        for fault in faults:
            line = f"{directory}: passed over {fault}; going on from {path.name}"
            report(line) if report else warnings.warn(line, stacklevel=2)
        return checkpoint
    cure = "restore the folder from a copy or start the run anew"
    raise CheckpointError(f"{directory}: no checkpoint verifies ({'; '.join(faults)}); {cure}")


class _Damaged(Exception):
    """One checkpoint cannot be trusted; says why."""


def _load(path: Path, step: int) -> Checkpoint:
    written = _read(path / _MANIFEST)
    manifest = _parse(written, _MANIFEST)
    try:
        intact = _to_json(manifest) == written
    except ValueError:
        intact = False
    if not intact:
        raise _Damaged(f"{_MANIFEST} is not what was written")
    sums = manifest.get("files")
    if manifest.get("format") != _FORMAT:
        raise _Damaged(f"{_MANIFEST} has format {manifest.get('format')!r}, not {_FORMAT}")
    if manifest.get("step") != step or not isinstance(sums, dict):
        raise _Damaged(f"{_MANIFEST} is not of this checkpoint")
    if set(sums) != {_TENSORS, _STATE}:
        raise _Damaged(f"{_MANIFEST} does not list {_TENSORS} and {_STATE}")
    content = {}
    for name, expected in sums.items():
        content[name] = _read(path / name)
        if expected != _fingerprint(content[name]):
            raise _Damaged(f"{name} is not what was written")
    record = _parse(content[_STATE], _STATE)
    try:
        tensors = safetensors.torch.load(content[_TENSORS])
    except safetensors.SafetensorError as error:
        raise _Damaged(f"{_TENSORS} cannot be read ({error})") from error
    return Checkpoint(step, tensors, record["state"])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _Damaged(f"{path.name}: {error.strerror or error}") from error


def _parse(content: bytes, name: str) -> dict[str, Any]:
    try:
        record = json.loads(content)
    except ValueError as error:  # of JSON or of UTF-8
        raise _Damaged(f"{name} cannot be read ({error})") from error
    if not isinstance(record, dict):
        raise _Damaged(f"{name} holds no record")
    return record


# ------------------------------------------------------------------------------------------- writing


def _write(directory: Path, step: int, files: Mapping[str, bytes], keep: int) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    _sweep(directory)
    versions = [version for old, version, _ in _found(directory) if old == step]
    # A full folder cannot be renamed onto another in one step: the newer of two gets a number.
    suffix = f"_{max(versions) + 1}" if versions else ""
    target = directory / f"it_{step:08d}{suffix}"
    aside = directory / f"{_ASIDE}{target.name}"
    aside.mkdir()
    for name, content in files.items():
        with open(aside / name, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    _fsync_directory(aside)
    os.rename(aside, target)
    _fsync_directory(directory)
    _forget(directory, step, target, keep)
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


def _detached_copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _fingerprint(content: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def _fsync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _found(directory: Path) -> list[tuple[int, int, Path]]:
    """Returns (step, version, folder) of every checkpoint, oldest first."""
    matches = [(_NAME.fullmatch(path.name), path) for path in directory.iterdir()]
    return sorted((int(m[1]), int(m[2] or 0), path) for m, path in matches if m and path.is_dir())


def _sweep(directory: Path) -> None:
    """Takes away what killed saves have left."""
    for path in directory.glob(f"{_ASIDE}*"):
        shutil.rmtree(path)


def _forget(directory: Path, step: int, newest: Path, keep: int) -> None:
    """Takes away all but the newest, and those of its step and of later ones that it replaces."""
    found = _found(directory)
    older = [path for old, _, path in found if old < step]
    kept = {newest, *older[max(0, len(older) - (keep - 1)) :]}
    for _, _, path in found:
        if path not in kept:
            # Renamed first: a kill in mid-removal must not leave half a checkpoint under its name.
            os.rename(path, directory / f"{_ASIDE}old-{path.name}")
    _sweep(directory)
