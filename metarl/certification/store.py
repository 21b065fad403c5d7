"""Folder of a certificate: its settings, its finished cells, and the certificate itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metarl.certification.cells import Cell
from metarl.core.errors import CheckpointError, ConfigError
from metarl.core.machine.files import clean_name, load_json, parse_json, write_atomically

SETTINGS = "settings.json"
CERTIFICATE = "certificate.json"


def to_text(tree: Any) -> str:
    """Returns a tree as the text of a JSON file."""
    return json.dumps(tree, indent=1, allow_nan=False) + "\n"


def open_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Creates the folder of a certificate, or checks that it has the same settings.

    Args:
        folder: The folder.
        settings: All that the numbers of the cells depend on, as a tree for JSON.

    Raises:
        ConfigError: The folder has files of something else, or a certificate with other settings;
            names the first that differs.
    """
    path = folder / SETTINGS
    if path.is_file():
        try:
            before = load_json(path)
        except ValueError as error:
            raise CheckpointError(f"{path} is not what metarl wrote; delete {folder}") from error
        now = parse_json(to_text(settings))
        # the environments follow from the grid, and packages explain nothing else
        late = ("env_versions", "versions")
        found = list(_differences(before, now))
        for name, old, new in sorted(found, key=lambda each: each[0].startswith(late)):
            old, new = (_name_axes(value) if name == "grid.axes" else value for value in (old, new))
            hint = "choose another folder with -o, or delete this one"
            raise ConfigError(f"{folder} has {name} {old!r:.80}, now it is {new!r:.80}; {hint}")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"-o {folder}: exists and is no certificate; choose another folder")
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        write_atomically(path, to_text(settings))


def _name_axes(axes: Any) -> Any:
    """Returns the names of the axes of a grid, or what is in their place."""
    is_list = isinstance(axes, list) and all(isinstance(axis, dict) for axis in axes)
    names = [axis.get("name") for axis in axes] if is_list else []
    return ", ".join(map(str, names)) or axes


def _differences(one: Any, other: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields name and values of what differs in two trees."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in {**one, **other}:
            yield from _differences(one.get(key), other.get(key), f"{name}.{key}" if name else key)
    elif one != other:
        yield name, one, other


def _path(folder: Path, number: int, cell: Cell) -> Path:
    return folder / "cells" / f"{number:03}-{clean_name(cell.name)[:80]}.json"


def read_cell(folder: Path, number: int, cell: Cell) -> dict[str, Any] | None:
    """Returns the result of a finished cell, None if it is not finished.

    Raises:
        CheckpointError: The file cannot be read.
    """
    path = _path(folder, number, cell)
    if not path.is_file():
        return None
    try:
        return load_json(path)
    except ValueError as error:
        raise CheckpointError(f"{path} is not what metarl wrote; delete it") from error


def write_cell(folder: Path, number: int, cell: Cell, result: Mapping[str, Any]) -> None:
    """Writes the result of a cell; a killed process leaves none or all of it."""
    write_atomically(_path(folder, number, cell), to_text(result))


def write_certificate(folder: Path, certificate: Mapping[str, Any]) -> Path:
    """Writes certificate.json; returns its path."""
    path = folder / CERTIFICATE
    write_atomically(path, to_text(certificate))
    return path


def count_cells(folder: Path, cells: Sequence[Cell]) -> int:
    """Returns the number of cells with a file."""
    return sum(_path(folder, number, cell).is_file() for number, cell in enumerate(cells))
