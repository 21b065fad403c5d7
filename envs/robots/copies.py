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

_INCLUDE = re.compile(r"<include\s[^>]*?file\s*=\s*[\"']([^\"']+)[\"']")


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
    that includes files outside its folder is written resolved, with numbers of six digits.

    Args:
        file: The robot's file, which can be read.
        folder: An empty folder.
    """
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    source = file.absolute().parent / tree["model"]
    spec = read_spec(source)
    spec.meshdir = str((source.parent / spec.meshdir).resolve())
    spec.texturedir = str((source.parent / spec.texturedir).resolve())
    texts = _read_with_includes(source.name, source.parent)
    for name, text in (texts or {source.name: spec.to_xml()}).items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    hashes = {str(path): _hash(path) for path in _list_assets(spec)}
    record = {"meshdir": spec.meshdir, "texturedir": spec.texturedir, "files": hashes}
    (folder / ASSETS).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
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


def _read_with_includes(name: str, folder: Path) -> dict[str, str] | None:
    """Returns the texts of a model and of what it includes by relative name.

    It is None if one of these is not in the model's folder.
    """
    texts, names = {}, [name]
    while names:
        name = names.pop()
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            return None
        if name not in texts:
            texts[name] = path.read_text(encoding="utf-8")
            names += _INCLUDE.findall(texts[name])
    return texts


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
