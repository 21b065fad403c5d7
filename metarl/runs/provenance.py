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

import numpy as np

from metarl import __version__
from metarl.core.env import supports
from metarl.core.errors import CheckpointError
from metarl.core.machine.files import load_json, write_atomically
from metarl.core.tasks import HasTestTasks

_CONTRACT = (
    "A run is a function of config.yaml, of the versions, the commit and the device recorded here, "
    "and of the kind of processor. "
)
_PROMISE = (
    "If these are the same, every parameter and every metric except times is the same bit for bit, "
    "also when the run is killed and resumed. The number of threads, of the physics and of the "
    "update, never matters."
)
_NO_PROMISE = (
    "Its updates run on a GPU without torch.use_deterministic_algorithms(True) and "
    "CUBLAS_WORKSPACE_CONFIG, so sums may be taken in another order each time. The numbers are "
    "the same up to rounding, which training amplifies; they are not promised bit for bit."
)

_PACKAGES = ("torch", "mujoco", "gymnasium", "numpy")


def write_run_json(
    run_dir: Path,
    spec: Any,
    *,
    device: str,
    threads: int,
    processes: int = 1,
    physics: str = "mujoco",
    is_deterministic: bool = False,
    init_from: Mapping[str, Any] | None = None,
    sources: Mapping[str, str] | None = None,
) -> list[str]:
    """Writes run.json; for a resumed run, adds this start under "resumed".

    Args:
        run_dir: Folder of the run.
        spec: Spec of the environment; written at the first start only, as it must not change.
        device: Device of the update, with the name of a GPU.
        threads: Threads of the physics and of the update; not compared.
        processes: Processes that train together.
        physics: What computes the physics of the training.
        is_deterministic: torch refuses operations that do not repeat bit for bit. Only a GPU has
            such ones, and without it a run on a GPU is promised nothing.
        init_from: The run and the checkpoint that a fine-tuned run starts from.
        sources: Hash of the source of each plug-in by its module.

    Returns:
        One line for each version, commit, source, device or processor that differs from the first
        start, so that the bit-for-bit contract does not hold; empty for a new run.

    Raises:
        CheckpointError: The file exists and is not a run.json.
    """
    is_repeatable = is_deterministic or device.partition(":")[0] == "cpu"
    facts = _collect_facts(device, threads) | {"is_repeatable": is_repeatable}
    facts |= {"processes": processes, "physics": physics}
    facts["sources"] = dict(sources or {})
    path = run_dir / "run.json"
    if not path.exists():
        contract = _CONTRACT + (_PROMISE if is_repeatable else _NO_PROMISE)
        record = {"contract": contract, "env": describe_env(spec), **facts, "resumed": []}
        record |= {"init_from": dict(init_from)} if init_from else {}
        write_atomically(path, json.dumps(record, indent=1))
        return []
    try:
        record = load_json(path)
        record["resumed"].append(facts)
        before = _select_fixed_facts(record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not what metarl wrote ({error!r})") from error
    write_atomically(path, json.dumps(record, indent=1))
    after = _select_fixed_facts(facts)
    names = [name for name in after if before.get(name) != after[name]]
    lines = [f"{name}: {before.get(name)} at the start, {after[name]} now" for name in names]
    return lines + _find_edits(record, facts["sources"])


def _find_edits(record: Mapping[str, Any], sources: Mapping[str, str]) -> list[str]:
    """Returns a line for each plug-in whose source was another one at the start of a run."""
    before = record.get("sources")
    before = before if isinstance(before, dict) else {}
    return [
        f"the source of {module} has been edited since the start"
        for module, digest in sources.items()
        if before.get(module, digest) != digest
    ]


def describe_edits(run_dir: Path, sources: Mapping[str, str]) -> list[str]:
    """Returns a line for each plug-in whose source is not the one that a run was trained with.

    Args:
        run_dir: Folder of the run.
        sources: Hash of the source of each plug-in by its module.
    """
    try:
        record = load_json(run_dir / "run.json")
    except (OSError, ValueError):
        return []
    edited = _find_edits(record, sources) if isinstance(record, dict) else []
    return [f"{run_dir}: {line}, so that returns may not be comparable" for line in edited]


def describe_version_change(run_dir: Path, spec: Any) -> str | None:
    """Returns one line if the environment's version differs from that of the run, else None.

    A run.json without a version, as older versions wrote it, counts as this version.

    Args:
        run_dir: Folder of the run.
        spec: Spec of the environment today.
    """
    try:
        record = load_json(run_dir / "run.json")
        before = record["env"]["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if before == spec.version:
        return None
    return (
        f"{run_dir} was trained on version {before} of {spec.name}, and this is version "
        f"{spec.version}: their returns are not comparable"
    )


def _collect_facts(device: str, threads: int) -> dict[str, Any]:
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "versions": list_versions(),
        "git": _read_git_revision(),
        "device": device,
        "threads": threads,
        "platform": platform.platform(),
        "processor": read_processor(),
        "num_processors": os.cpu_count(),
    }


def list_versions() -> dict[str, str | None]:
    """Returns the versions, by name, that a run's bits depend on."""
    own = {"metarl": __version__, "python": platform.python_version()}
    return own | {name: _find_version(name) for name in _PACKAGES}


_SPEC_FIELDS = ("name", "version", "horizon", "dt", "action_scale", "obs_size", "action_size")
_VARIABLE_FIELDS = ("name", "unit", "low", "high", "bands", "labels")


def describe_env(spec: Any) -> dict[str, Any]:
    """Returns what decides the returns of an environment; a plug-in may lack some fields."""
    tasks = spec.tasks
    test_tasks = tasks.test if supports(tasks, HasTestTasks) else tasks
    rest = ("reward", "floors", "note", "task_split", "discrete", "action_centre", "action_range")
    return {
        **_read_fields(spec, _SPEC_FIELDS),
        "tasks": {"train": _describe_variables(tasks), "test": _describe_variables(test_tasks)},
        **_read_fields(tasks, ("held_out",)),
        **_read_fields(spec, rest),
        **{name: _list_quantities(spec, name) for name in ("observed", "actuators")},
    }


def _list_quantities(spec: Any, name: str) -> list[list[str]]:
    """Returns [name, unit] of each number of an observation or an action; [] if not stated."""
    return [[each.name, each.unit] for each in getattr(spec, name, ())]


def _describe_variables(distribution: Any) -> list[dict[str, Any]]:
    return [_read_fields(each, _VARIABLE_FIELDS) for each in getattr(distribution, "variables", ())]


def _read_fields(source: Any, names: Sequence[str]) -> dict[str, Any]:
    """Returns the fields that the spec of a plug-in has; it may be of any class."""
    return {name: to_json(getattr(source, name)) for name in names if hasattr(source, name)}


def to_json(value: Any) -> Any:
    """Converts a value to strict JSON: NumPy scalars to Python numbers, infinity to a text."""
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _select_fixed_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: facts[name] for name in ("git", "device", "processor")}
    # older versions trained in one process, by MuJoCo, and said nothing of it
    later = {"processes": 1, "physics": "mujoco"}
    return {**facts["versions"], **kept, **{n: facts.get(n, v) for n, v in later.items()}}


def _find_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _read_git_revision() -> str | None:
    """Returns the commit of the sources, with "-dirty" if they are changed; None outside git."""
    root = Path(__file__).resolve().parent.parent.parent
    # An installed copy may be in the .venv of another repository, whose commit is unrelated.
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root)]
    command += ["describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def read_processor() -> str:
    """Returns the kind of processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
