"""Code that a run folder names: it is loaded only if the user has named it too.

A plug-in environment or learner is `module:attribute`, and its module may lie in the current
directory. So a run folder of somebody else could run code as soon as it is opened. A name counts as
trusted once the user has given it in this process: on the command line, as an argument, or with
`--trust-env` for all that one run folder names. Names of installed packages need no trust.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metarl.core.errors import ConfigError
from metarl.core.machine.files import split_robot_file


class Untrusted(ConfigError):
    """A run folder names code that the user has not named."""


FLAG = "--trust-env"

_TRUSTED: set[str] = set()
"""Names that the user has given in this process, whose code it may have run already."""


def names_code(name: str) -> bool:
    """Returns whether the name of an environment or learner makes Python import a module."""
    return ":" in name and split_robot_file(name) is None


def trust(*names: object) -> None:
    """Notes names that the user has given."""
    _TRUSTED.update(name for name in names if isinstance(name, str) and names_code(name))


def trust_settings(settings: Mapping[str, Any]) -> None:
    """Notes the names in settings that the user has written, or trusts."""
    trust(settings.get("env"), settings.get("algo"))


def is_trusted(name: str) -> bool:
    """Returns whether a name runs no code, or code that the user has named."""
    return not names_code(name) or name in _TRUSTED


def require_trust(place: str | Path, field: str, name: object, hint: str = "") -> None:
    """Refuses a name that a run folder or a file gives, if it is code that is not trusted.

    Args:
        place: The folder or file, for the message.
        field: "env" or "algo".
        name: The name.
        hint: What to do; by default to add the flag.

    Raises:
        Untrusted: It is such code; nothing of it was imported.
    """
    if not isinstance(name, str) or is_trusted(name):
        return
    hint = hint or f"add {FLAG} if you trust it (trust_env=True from Python)"
    raise Untrusted(f"{place}: its {field} is the code {name!r}, which is not run; {hint}")


def trust_file(path: Path, settings: Mapping[str, Any]) -> None:
    """Trusts what a file of settings names, unless it is that of a run folder.

    Raises:
        Untrusted: It is, and names code that the user has not named.
    """
    if not (path.parent / "run.json").exists():
        trust_settings(settings)
    for field in ("env", "algo"):
        value = settings.get(field)
        require_trust(path, field, value, f"add --{field} {value} if you trust it")


def resume_command(run: Path, *names: str) -> str:
    """Returns the command that resumes a run, which trusts it if one of its names is code."""
    words = ["python", sys.argv[0]] if sys.argv[:1] and sys.argv[0].endswith("train.py") else []
    words = [*(words or ["metarl", "train"]), "--resume", str(run)]
    return shlex.join([*words, FLAG] if any(map(names_code, names)) else words)


def hint_at_resume(run: Path) -> str:
    """Returns the hint for a run that the user may trust."""
    return f"if you trust it: {resume_command(run)} {FLAG}"
