"""Hashes of the source of plug-ins, which run.json records: an edited one is another experiment."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import FunctionType, ModuleType

from metarl.config.trust import names_code


def hash_sources(*names: str) -> dict[str, str]:
    """Returns module -> SHA-256 of the source of each plug-in `module:attribute` among names.

    It is that of the module and of the modules beside it that it uses, as they are on the disk.
    Modules that are not imported, or have no file, are left out.
    """
    hashes = {}
    for name in filter(names_code, names):
        module = name.partition(":")[0]
        paths = _find_files(module)
        if paths:
            digest = hashlib.sha256()
            for path in paths:
                digest.update(path.name.encode(errors="backslashreplace") + b"\n")
                digest.update(path.read_bytes())
            hashes[module] = digest.hexdigest()
    return hashes


def _find_files(module: str) -> list[Path]:
    """Returns the files of a module and of those in its folder that it uses, sorted."""
    first = _find_file(module)
    if first is None:
        return []
    found, todo = {module: first}, [module]
    while todo:
        for value in list(vars(sys.modules[todo.pop()]).values()):
            if isinstance(value, ModuleType):
                name = value.__name__
            elif isinstance(value, (type, FunctionType)):
                name = value.__module__
            else:
                continue
            path = None if name in found else _find_file(name)
            if path is not None and path.is_relative_to(first.parent):
                found[name] = path
                todo.append(name)
    return sorted(set(found.values()))


def _find_file(module: str) -> Path | None:
    """Returns the source file of an imported module; None without one, and for installed ones."""
    loaded = sys.modules.get(module)
    file = vars(loaded).get("__file__") if loaded is not None else None
    path = Path(file) if isinstance(file, str) else None
    if path is None or path.suffix != ".py" or not path.is_file():
        return None
    return None if "site-packages" in path.parts else path
