"""The environment of a run as run.json describes it, without building it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from metarl.core.env import EnvSpec, Quantity
from metarl.core.machine.files import load_json
from metarl.core.tasks import TaskDistribution, Variable


@dataclass(frozen=True)
class RecordedTasks:
    """Task numbers of a run, of which no tasks can be drawn.

    Attributes:
        variables: The D numbers of a training task.
        held_out: The environment has test tasks that differ from those of training.
        test_variables: The D numbers of a test task.
    """

    variables: tuple[Variable, ...]
    held_out: bool
    test_variables: tuple[Variable, ...]

    @property
    def test(self) -> TaskDistribution:
        """The test tasks."""
        return RecordedTasks(self.test_variables, self.held_out, self.test_variables)

    def sample(self, rng: np.random.Generator, num_tasks: int) -> NoReturn:
        """Refuses: only the environment draws tasks.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("the tasks of a run folder cannot be drawn without its environment")


class RecordedEnv:
    """Stands for an environment where only its spec is needed; it cannot be stepped.

    Args:
        spec: The spec.
    """

    def __init__(self, spec: EnvSpec):
        self.spec = spec

    def _refuse(self, *arguments: Any, **options: Any) -> NoReturn:
        raise RuntimeError(f"{self.spec.name} was not built: this is only its description")

    set_tasks = reset = reset_rows = step = _refuse

    def close(self) -> None:
        """Does nothing."""


def read_spec(run: Path) -> EnvSpec | None:
    """Returns the spec in run.json, or None if there is none that can be read.

    Older versions of metarl recorded less; missing fields have their defaults.
    """
    try:
        record = load_json(run / "run.json")["env"]
        variables = {
            part: tuple(read_variable(each) for each in record["tasks"][part])
            for part in ("train", "test")
        }
        tasks = RecordedTasks(
            variables["train"], bool(record.get("held_out", True)), variables["test"]
        )
        low, high = map(_read_list, record.get("action_range") or ((), ()))
        return EnvSpec(
            name=record["name"],
            version=record.get("version", 1),
            obs_size=record["obs_size"],
            action_size=record["action_size"],
            horizon=record["horizon"],
            dt=float(record["dt"]),
            action_scale=_read_numbers(record["action_scale"]),
            tasks=tasks,
            reward=record.get("reward", ""),
            floors={name: float(value) for name, value in record.get("floors", {}).items()},
            note=record.get("note", ""),
            discrete=record["discrete"],
            action_centre=_read_numbers(record.get("action_centre", 0.0)),
            action_range=(low, high) if low else None,
            observed=_read_quantities(record, "observed"),
            actuators=_read_quantities(record, "actuators"),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None


def read_variable(record: Mapping[str, Any]) -> Variable:
    """Returns a task number from its fields."""
    bands = tuple((float(low), float(high)) for low, high in record.get("bands", ()))
    ends = float(record["low"]), float(record["high"])
    labels = tuple(record.get("labels", ()))
    return Variable(record["name"], record["unit"], *ends, bands=bands, labels=labels)


def _read_numbers(value: Any) -> float | tuple[float, ...]:
    return _read_list(value) if isinstance(value, list) else float(value)


def _read_list(value: Any) -> tuple[float, ...]:
    """Returns numbers, of which an infinite one is a text."""
    return tuple(map(float, value))


def _read_quantities(record: Mapping[str, Any], name: str) -> tuple[Quantity, ...]:
    return tuple(Quantity(*each) for each in record.get(name, ()))
