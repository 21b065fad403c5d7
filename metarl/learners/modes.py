"""Modes of learners: what a run is in a comparison, without torch."""

from __future__ import annotations

from metarl.learners.sb3.config import Sb3PpoConfig, Sb3TrpoConfig
from metarl.learners.teacher_student.config import TeacherStudentConfig


def find_mode(learner: object) -> str | None:
    """Returns the mode of a baseline; None for settings of a learner that is none."""
    if isinstance(learner, TeacherStudentConfig):
        return "oracle" if learner.mode == "oracle" else None
    return learner.mode if isinstance(learner, Sb3PpoConfig | Sb3TrpoConfig) else None


def label(algo: str, learner: object) -> str:
    """Names what was trained: --algo, and the mode of a baseline that has modes."""
    mode = find_mode(learner)
    return algo if mode is None else f"{algo}-{mode}"
