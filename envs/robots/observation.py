"""What a robot observes: parts of the simulator's state."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from metarl.envs.robots.robot import Robot


@dataclass(frozen=True)
class ObservationField:
    """Rows of a field of MjData, as a part of the observation.

    Attributes:
        field: Name of the field.
        first: First observed row.
        shape: Shape of the observed rows of one robot.
        limit: Values are clipped to `[-limit, limit]` [units of the field].
    """

    field: str
    first: int
    shape: tuple[int, ...]
    limit: float

    @property
    def size(self) -> int:
        """Count of numbers in the observation."""
        return int(np.prod(self.shape))

    def view(self, field: np.ndarray) -> np.ndarray:
        """Returns the observed rows of the field (M, ...) of M robots."""
        # bodies that a variation has added come last, and are not observed
        return field[:, self.first : self.first + self.shape[0]]


def list_observation_fields(
    robot: Robot, model: mujoco.MjModel, *, contacts: bool
) -> list[ObservationField]:
    """Returns the fields of a robot's observation, in order.

    Args:
        robot: The robot.
        model: Its model, without other bodies.
        contacts: Append the contact forces, clipped to [-1, 1].

    Returns:
        qpos without the world position, qvel, derived fields, contact forces.
    """
    data = mujoco.MjData(model)
    fields = [("qpos", robot.skip_qpos, np.inf), ("qvel", 0, robot.max_observed_speed)]
    fields += [(name, first, np.inf) for name, first in robot.derived]
    fields += [("cfrc_ext", 0, 1.0)] if contacts else []
    return [
        ObservationField(name, first, getattr(data, name)[first:].shape, limit)
        for name, first, limit in fields
    ]
