"""Provenance of a run: versions, machine and environment definition, in run.json."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from metarl import __version__
from metarl.core.errors import CheckpointError
from metarl.core.files import write_atomically

CONTRACT = (
    "A run is a function of config.yaml, of the versions, the commit and the device recorded here, "
    "and of the processor's kind. With these the same, every metric but times, and every parameter, comes out "
    "bit for bit the same, also when the run is killed and resumed. The number of threads, of the "
    "physics and of the update, never matters."
)


_PACKAGES = ("torch", "mujoco", "gymnasium", "numpy")


def write_run_json(
    run_dir: Path,
    spec: Any,
    *,
    device: str,
    threads: int,
    init_from: Mapping[str, Any] | None = None,
) -> list[str]:
    """Records what the run is made with; of a run that is resumed, adds it under "resumed".

    Args:
        run_dir: Folder of the run.
        spec: The environment's spec; recorded at the first start only, since it must not change.
        device: Where the update runs, with the name of a GPU.
        threads: Threads of the physics and of the update, for the record only.
        init_from: The run and the checkpoint that a fine-tuned run starts from.

    Returns:
        One line for each version, commit or device that differs from the first start, which voids the
        bit-for-bit contract; empty for a new run.

    Raises:
        CheckpointError: The run.json that is there is none.
    """
    facts = _facts(device, threads)
    path = run_dir / "run.json"
    if not path.exists():
        record = {"contract": CONTRACT, "env": _definition(spec), **facts, "resumed": []}
        record |= {"init_from": dict(init_from)} if init_from else {}
        write_atomically(path, json.dumps(record, indent=1))
        return []
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["resumed"].append(facts)
        before = _what_must_not_change(record)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not what metarl wrote ({error!r})") from error
    write_atomically(path, json.dumps(record, indent=1))
    after = _what_must_not_change(facts)
    names = [name for name in after if before.get(name) != after[name]]
    return [f"{name}: {before.get(name)} at the start, {after[name]} now" for name in names]


def describe_version_change(run_dir: Path, spec: Any) -> str | None:
    """Says in one line that a run was trained on another version of its environment; None if it was not.

    A run whose run.json does not tell, as those of older versions, is taken for one of this version.

    Args:
        run_dir: Folder of the run.
        spec: The spec of the environment as it is now.
    """
    try:
        record = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
        before = record["env"]["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if before == spec.version:
        return None
    return (
        f"{run_dir} was trained on version {before} of {spec.name}, and this is version {spec.version}: "
        "their returns are not comparable"
    )


def _facts(device: str, threads: int) -> dict[str, Any]:
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "versions": {
            "metarl": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
        },
        "git": _git_revision(),
        "device": device,
        "threads": threads,
        "platform": platform.platform(),
        "processor": _processor(),
        "num_processors": os.cpu_count(),
    }


_OF_A_SPEC = ("name", "version", "horizon", "dt", "action_scale", "obs_size", "action_size")


_OF_A_VARIABLE = ("name", "unit", "low", "high", "bands", "labels")


def _definition(spec: Any) -> dict[str, Any]:
    """What the returns of an environment rest on; that of a plug-in may leave some of it out."""
    tasks = spec.tasks
    variables = {"train": tasks, "test": getattr(tasks, "test", tasks)}
    rest = ("reward", "floors", "note", "task_split", "discrete")
    return {
        **_told(spec, _OF_A_SPEC),
        "tasks": {
            name: [_told(each, _OF_A_VARIABLE) for each in getattr(distribution, "variables", ())]
            for name, distribution in variables.items()
        },
        **_told(tasks, ("held_out",)),
        **_told(spec, rest),
    }


def _told(source: Any, names: Sequence[str]) -> dict[str, Any]:
    return {name: _strict(getattr(source, name)) for name in names if hasattr(source, name)}


def _strict(value: Any) -> Any:
    """A value as strict JSON can hold it: numbers of NumPy become Python's, infinity a text."""
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _what_must_not_change(facts: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: facts[name] for name in ("git", "device", "processor")}
    return {**facts["versions"], **kept}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Returns the commit of the sources, with "-dirty" if they differ from it; None outside git."""
    root = Path(__file__).resolve().parent.parent.parent
    # An installed copy may lie in the .venv of another repository, whose commit says nothing of it.
    if not (root / ".git").exists():
        return None
    command = [
        "git",
        "-C",
        str(root),
        "describe",
        "--always",
        "--abbrev=40",
        "--exclude=*",
        "--dirty",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
