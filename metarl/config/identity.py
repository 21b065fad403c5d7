"""The settings that make a run what it is, as its checkpoints record them, and its name."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from metarl.config.changes import FREE_ON_RESUME
from metarl.config.parser import plain
from metarl.config.schema import TrainConfig
from metarl.core.trees import flatten
from metarl.learners.modes import label


def describe_identity(config: TrainConfig[Any]) -> dict[str, str]:
    """Returns dotted name -> text of the settings that a resumed run keeps; equal values are equal.

    Checkpoints have them, so that a config.yaml that was changed later is found.
    """
    return {
        name: repr(_canonical(plain(value)))
        for name, value in flatten(asdict(config)).items()
        if not {name, name.partition(".")[0]} & FREE_ON_RESUME
    }


def label_config(config: TrainConfig[Any]) -> str:
    """Names what is trained: the learner, the mode of a baseline, and additional observations."""
    return label(
        config.algo,
        config.learner,
        observe_task=config.observe_task,
        observe_terrain=config.observe_terrain,
    )


def _canonical(value: Any) -> Any:
    """Returns a value with whole numbers as int: a file has 1 or 1.0 for the same number."""
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
