"""Files that metarl brings along, which a user names by their stem."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from metarl.core.errors import ConfigError, nearest


def list_shipped(folder: Path) -> dict[str, Path]:
    """Returns name -> file of the YAML files in a folder."""
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_shipped(file: str, known: Mapping[str, Path], flag: str, kind: str) -> Path:
    """Returns the file that is given as a path, or as one of the names.

    Args:
        file: The path or the name.
        known: As `list_shipped` returns them.
        flag: Beginning of the message.
        kind: What the files are, for the message.

    Raises:
        ConfigError: There is neither; the message names the nearest.
    """
    path = Path(file)
    if path.is_file():
        return path
    if file in known:
        return known[file]
    hint = nearest(path.stem, known) or f"; known {kind}: {', '.join(known)}"
    raise ConfigError(f"{flag} {file}: no such file{hint}")
