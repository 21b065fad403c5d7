"""Variation of the time between a command of the policy and its arrival at the actuators."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metarl.core.tasks import Choice, Split, TaskDistribution, Variable
from metarl.envs.locomotion.world import Variation
from metarl.envs.robots.robot import Robot


@dataclass(frozen=True)
class Delay(Variation):
    """A delay of all controls, longer in test tasks; it adds to that of the robot.

    Attributes:
        train: Delays of the training tasks [control steps].
        test: Delays of the held-out tasks [control steps], at most `past_steps`.
    """

    train: tuple[int, ...] = (0, 1, 2, 3)
    test: tuple[int, ...] = (4,)

    name = "delay"
    past_steps = 4
    formula = "all controls come late by `delay` control steps"

    def tasks(self, robot: Robot) -> TaskDistribution:
        """Returns the distribution of the delay."""
        train, test = (
            Choice(Variable("delay", "step", values[0], values[-1]), values)
            for values in (tuple(map(float, self.train)), tuple(map(float, self.test)))
        )
        return Split(train, test)

    def delays(self, tasks: np.ndarray) -> np.ndarray:
        """Returns the delay of the tasks."""
        return tasks[:, 0].astype(int)
