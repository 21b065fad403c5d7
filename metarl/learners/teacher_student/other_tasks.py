"""Starting an encoder of tasks from one of other tasks."""

from __future__ import annotations

from torch import Tensor

from metarl.core.task_code import TaskCode
from metarl.learners.teacher_student.networks import Phase


def match_columns(given: Tensor, before: TaskCode, now: TaskCode) -> Tensor:
    """Returns columns of given (H, C), which are of the inputs before, for the inputs now.

    Those of inputs that are new, or have another range or unit, are 0.
    """
    known = before.meanings
    matched = given.new_zeros(len(given), now.size)
    for column, meaning in enumerate(now.meanings):
        if meaning in known:
            matched[:, column] = given[:, known.index(meaning)]
    return matched


def describe_start(phase: Phase, before: TaskCode, now: TaskCode) -> str:
    """Describes which phase begins, and which task numbers the encoder does not know yet."""
    known = before.meanings
    new = dict.fromkeys(meaning[0] for meaning in now.meanings if meaning not in known)
    encoder = f"its encoder learns {', '.join(new)} anew" if new else "its encoder is kept"
    return f"the {phase}'s phase begins; {encoder}"
