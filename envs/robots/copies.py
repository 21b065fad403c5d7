"""Copies of a user's robot, with which a run can be used after its files have changed."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import mujoco

from metarl.core.errors import ConfigError
from metarl.core.machine.files import load_json
from metarl.core.machine.yaml_files import dump_yaml, load_yaml
from metarl.core.trees import check_form

ASSETS = "metarl-assets.json"
"""Of a copy: folders of meshes and textures, and the SHA-256 of each file in them.

The paths are absolute, or relative to the copy in one that has all files in it.
"""

_FORM = {"meshdir": str, "texturedir": str, "files": {"*": str}}

_INCLUDE = re.compile(rb"<include\s[^>]*?file\s*=\s*[\"']([^\"']+)[\"']")


def read_spec(path: Path) -> mujoco.MjSpec:
    """Reads a model; that of a copy takes its meshes and textures from where they were.

    Raises:
        ValueError: MuJoCo's message.
    """
    spec = mujoco.MjSpec.from_file(str(path))
    if record := _read_record(path.parent):
        # an absolute path stands for itself, one of a published robot is in the folder
        spec.meshdir = str(path.absolute().parent / record["meshdir"])
        spec.texturedir = str(path.absolute().parent / record["texturedir"])
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
    tree = load_yaml(file)
    source = file.absolute().parent / tree["model"]
    spec = read_spec(source)
    spec.meshdir = str((source.parent / spec.meshdir).resolve())
    spec.texturedir = str((source.parent / spec.texturedir).resolve())
    hashes = {str(path): _hash(path) for path in _list_assets(spec) if path.is_file()}
    record = {"meshdir": spec.meshdir, "texturedir": spec.texturedir, "files": hashes}
    (folder / ASSETS).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if not _copy_model(source, folder):
        (folder / source.name).write_text(spec.to_xml(), encoding="utf-8")
        read_spec(folder / source.name).compile()
    text = dump_yaml({**tree, "model": source.name})
    (folder / file.name).write_text(f"# a copy of {file.name}\n{text}", encoding="utf-8")


def copy_with_assets(file: Path, folder: Path) -> None:
    """Writes a copy of a robot, with its meshes and textures, into a new folder.

    The new copy names no path outside of it, so it can be used on another machine.

    Args:
        file: The robot's file in a folder that `copy_robot` has written.
        folder: The new folder.

    Raises:
        ConfigError: A mesh or texture is missing, has changed, or is outside of its folder; the
            message names it.
        OSError: A file cannot be read or written.
    """
    copy = file.parent
    check_assets(copy)
    spec = read_spec(copy / load_yaml(file)["model"])
    shutil.copytree(copy, folder)
    names = {"meshes": spec.meshdir, "textures": spec.texturedir}
    hashes = {}
    assets = [("meshes", mesh) for mesh in _list_meshes(spec)]
    assets += [("textures", texture) for texture in _list_textures(spec)]
    for name, relative in assets:
        source, target = Path(names[name]) / relative, Path(name) / relative
        if Path(relative).is_absolute() or ".." in target.parts:
            hint = "put it there and start a new run"
            raise ConfigError(f"{source}: is not in the folder of the robot's {name}; {hint}")
        if source.is_file():
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / target)
            hashes[target.as_posix()] = _hash(source)
    record = {"meshdir": "meshes", "texturedir": "textures", "files": hashes}
    (folder / ASSETS).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for model in folder.rglob("*.xml"):  # one that was written resolved names the folders
        content = model.read_bytes()
        for name, place in names.items():
            content = content.replace(f'dir="{place}'.encode(), f'dir="{name}'.encode())
        model.write_bytes(content)


def check_assets(folder: Path) -> None:
    """Tests that the meshes and textures of a copy in a folder are as they were.

    Raises:
        ConfigError: One is missing or has changed; the message names it.
    """
    for path, known in (_read_record(folder) or {"files": {}})["files"].items():
        found = _hash(folder / path)
        if found != known:
            what = "has changed since the run" if found else "is missing"
            raise ConfigError(f"{folder}: {path} {what}; the robot of this run needs it")


def _read_record(folder: Path) -> dict[str, Any] | None:
    path = folder / ASSETS
    if not path.is_file():
        return None
    try:
        record = load_json(path)
        check_form(record, _FORM)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error})") from error
    return record


def _copy_model(source: Path, folder: Path) -> bool:
    """Writes a model and what it includes, as they are, into a folder that has no model yet.

    Returns:
        Whether the copy compiles by itself; otherwise the folder is as before. It does not where
        an included file is not within the model's folder, or names meshes beside itself.
    """
    files = _read_with_includes(source.name, source.parent)
    if files is None:
        return False
    for name, content in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    try:
        read_spec(folder / source.name).compile()
    except ValueError:
        for name in files:
            (folder / name).unlink()
        return False
    return True


def _read_with_includes(name: str, folder: Path) -> dict[str, bytes] | None:
    """Returns the contents of a model and of what it includes, by names within its folder.

    Returns:
        None where an included file has an absolute name, or one that goes through "..": a copy
        in another folder would read, or overwrite, the file itself.
    """
    found, names = {}, [name]
    while names:
        name = names.pop()
        if Path(name).is_absolute() or ".." in Path(name).parts:
            return None
        if name not in found and (folder / name).is_file():
            found[name] = (folder / name).read_bytes()
            names += [file.decode("utf-8", "replace") for file in _INCLUDE.findall(found[name])]
    return found


def _list_assets(spec: mujoco.MjSpec) -> list[Path]:
    meshes = [Path(spec.meshdir) / file for file in _list_meshes(spec)]
    return meshes + [Path(spec.texturedir) / file for file in _list_textures(spec)]


def _list_meshes(spec: mujoco.MjSpec) -> list[str]:
    """Returns the files of meshes and height fields, relative to the folder of meshes."""
    return sorted({asset.file for group in (spec.meshes, spec.hfields) for asset in group} - {""})


def _list_textures(spec: mujoco.MjSpec) -> list[str]:
    """Returns the files of textures, relative to their folder."""
    return sorted({texture.file for texture in spec.textures} - {""})


def _hash(path: Path) -> str:
    """Returns the SHA-256 of a file, "" if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
