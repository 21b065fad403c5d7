"""Copies of a user's robot, with which a run can be used after its files have changed."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import mujoco
import yaml

from metarl.core.errors import ConfigError

ASSETS = "metarl-assets.json"
"""Of a copy: absolute folders of meshes and textures, and the SHA-256 of each file in them."""

_INCLUDE = re.compile(rb"<include\s[^>]*?file\s*=\s*[\"']([^\"']+)[\"']")


def read_spec(path: Path) -> mujoco.MjSpec:
    """Reads a model; that of a copy takes its meshes and textures from where they were.

    Raises:
        ValueError: MuJoCo's message.
    """
    spec = mujoco.MjSpec.from_file(str(path))
    if record := _read_record(path.parent):
        spec.meshdir, spec.texturedir = record["meshdir"], record["texturedir"]
    return spec


def copy_robot(file: Path, folder: Path) -> None:
    """Writes a robot's file, its model and what it includes into a folder.

    Meshes and textures are not copied, because they can be large: the copy points to them. A model
    whose parts cannot be moved so is written resolved, with numbers of six digits.

    Args:
        file: The robot's file, which can be read.
        folder: An empty folder.

    Raises:
        ValueError: MuJoCo cannot compile the copy; its message.
        OSError: A file cannot be written.
    """
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    source = file.absolute().parent / tree["model"]
    spec = read_spec(source)
    spec.meshdir = str((source.parent / spec.meshdir).resolve())
    spec.texturedir = str((source.parent / spec.texturedir).resolve())
    files = _read_with_includes(source.name, source.parent)
    for name, content in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    hashes = {str(path): _hash(path) for path in _list_assets(spec) if path.is_file()}
    record = {"meshdir": spec.meshdir, "texturedir": spec.texturedir, "files": hashes}
    (folder / ASSETS).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    try:
        read_spec(folder / source.name).compile()
    except ValueError:  # meshes of an included file are sought beside the copy, say
        for name in files:
            (folder / name).unlink()
        (folder / source.name).write_text(spec.to_xml(), encoding="utf-8")
        read_spec(folder / source.name).compile()
    text = yaml.safe_dump({**tree, "model": source.name}, sort_keys=False)
    (folder / file.name).write_text(f"# a copy of {file.name}\n{text}", encoding="utf-8")


def check_assets(folder: Path) -> None:
    """Tests that the meshes and textures of a copy in a folder are as they were.

    Raises:
        ConfigError: One is missing or has changed; the message names it.
    """
    for path, known in (_read_record(folder) or {"files": {}})["files"].items():
        found = _hash(Path(path))
        if found != known:
            what = "has changed since the run" if found else "is missing"
            raise ConfigError(f"{folder}: {path} {what}; the robot of this run needs it")


def _read_record(folder: Path) -> dict[str, Any] | None:
    path = folder / ASSETS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _read_with_includes(name: str, folder: Path) -> dict[str, bytes]:
    """Returns the contents of a model and of what it includes from its folder, by relative name."""
    found, names = {}, [name]
    while names:
        name = names.pop()
        path = (folder / name).resolve()
        is_inside = path.is_relative_to(folder.resolve()) and path.is_file()
        if is_inside and name not in found:
            found[name] = path.read_bytes()
            names += [file.decode("utf-8", "replace") for file in _INCLUDE.findall(found[name])]
    return found


def _list_assets(spec: mujoco.MjSpec) -> list[Path]:
    meshes = {asset.file for group in (spec.meshes, spec.hfields) for asset in group}
    textures = {texture.file for texture in spec.textures}
    files = [Path(spec.meshdir) / file for file in sorted(meshes - {""})]
    return files + [Path(spec.texturedir) / file for file in sorted(textures - {""})]


def _hash(path: Path) -> str:
    """Returns the SHA-256 of a file, "" if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
