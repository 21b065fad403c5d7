"""Modes of learners: what a run is in a comparison, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from metarl.learners.sb3.config import Mode, Sb3PpoConfig, Sb3TrpoConfig
from metarl.learners.teacher_student.config import TeacherStudentConfig


def find_mode(learner: object) -> str | None:
    """Returns the mode of a baseline; None for settings of a learner that is none."""
    if isinstance(learner, TeacherStudentConfig):
        return "oracle" if learner.mode == "oracle" else None
    return learner.mode if isinstance(learner, Sb3PpoConfig | Sb3TrpoConfig) else None


def label(
    algo: str, learner: object, *, observe_task: bool = False, observe_terrain: bool = False
) -> str:
    """Names what was trained: --algo, the mode of a baseline, and additional observations."""
    return _join(algo, find_mode(learner), observe_task, observe_terrain)


_MODES = {
    **dict.fromkeys(("sb3-ppo", "sb3-trpo"), get_args(Mode)),
    "teacher-student": ("oracle",),
}
"""Modes of `find_mode` by --algo."""


def label_settings(settings: Mapping[str, Any]) -> str:
    """Names what was trained, like `label`, by the entries of config.yaml with dotted keys."""
    algo, mode = str(settings["algo"]), settings.get("learner.mode")
    return _join(
        algo,
        mode if mode in _MODES.get(algo, ()) else None,
        bool(settings.get("observe_task")),
        bool(settings.get("observe_terrain")),
    )


def _join(algo: str, mode: str | None, observe_task: bool, observe_terrain: bool) -> str:
    parts = [algo, mode or ""]
    parts += ["observe-task"] if observe_task else []
    parts += ["observe-terrain"] if observe_terrain else []
    return "-".join(filter(None, parts))
