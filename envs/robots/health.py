"""When a robot is healthy: it has not fallen, and the simulation is sound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class HeightBand:
    """Healthy while the torso's height is in a closed interval.

    Attributes:
        low: Smallest healthy height [m, above the ground].
        high: Largest healthy height [m, above the ground].
    """

    low: float
    high: float

    def __call__(self, height: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Tests the health, see HealthCheck."""
        return (height >= self.low) & (height <= self.high)


@dataclass(frozen=True)
class OpenBand:
    """Healthy while the torso's height is in an open interval.

    Attributes:
        low: Lower end [m, above the ground].
        high: Upper end [m, above the ground].
    """

    low: float
    high: float

    def __call__(self, height: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Tests the health, see HealthCheck."""
        return (height > self.low) & (height < self.high)


@dataclass(frozen=True)
class Standing:
    """Healthy while a free base is at a height in an open interval and not tilted too far.

    Attributes:
        low: Lower end [m, above the ground].
        high: Upper end [m, above the ground].
        tilt: Bound of the angle between the base's z axis and the vertical [rad].
    """

    low: float
    high: float
    tilt: float

    def __call__(self, height: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Tests the health, see HealthCheck."""
        x, y = qpos[:, 4], qpos[:, 5]
        level = 1.0 - 2.0 * (x * x + y * y) / np.square(qpos[:, 3:7]).sum(axis=1)
        return (height > self.low) & (height < self.high) & (level > np.cos(self.tilt))


@dataclass(frozen=True)
class Upright:
    """Healthy while a planar robot's torso is high and upright; all bounds are exclusive.

    Attributes:
        low: Lower bound of the torso's height [m, above the ground].
        high: Upper bound of the torso's height [m, above the ground].
        angle: Bound of the pitch to either side [rad].
        limit: Bound of the entries of qvel, and of qpos from the pitch on [units of qpos, qvel].
    """

    low: float
    high: float
    angle: float
    limit: float = np.inf

    def __call__(self, height: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Tests the health, see HealthCheck."""
        upright = (height > self.low) & (height < self.high) & (np.abs(qpos[:, 2]) < self.angle)
        if np.isinf(self.limit):
            return upright
        slow = (np.abs(qvel) < self.limit).all(axis=1)
        return upright & slow & (np.abs(qpos[:, 2:]) < self.limit).all(axis=1)
