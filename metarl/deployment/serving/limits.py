"""Safety of a robot: limits on its controls and their rate, and a watchdog on its observations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metarl.core.env import EnvSpec
from metarl.core.errors import ConfigError
from metarl.deployment.serving.messages import Flag
from metarl.deployment.signals import to_controls


def safe_control(spec: EnvSpec) -> np.ndarray:
    """Returns the controls (A,) of an output of zero: for servos, the home pose.

    Of discrete actions it is the first, (1,).
    """
    return np.atleast_1d(to_controls(spec, np.zeros((1, spec.action_size)))[0])


@dataclass(frozen=True)
class Limits:
    """Range and rate of the controls that reach a robot.

    Attributes:
        home: The safe control (A,) [robot's units].
        low: Smallest controls (A,).
        high: Largest controls (A,).
        rate: Largest change of each control (A,) [robot's units/s]; infinite without a limit.
    """

    home: np.ndarray
    low: np.ndarray
    high: np.ndarray
    rate: np.ndarray

    def apply(
        self, controls: np.ndarray, previous: np.ndarray, seconds: float
    ) -> tuple[np.ndarray, bool]:
        """Limits controls (A,) that follow `previous` after a time.

        Args:
            controls: What the policy chose.
            previous: What the robot was sent before.
            seconds: Time between the two [s].

        Returns:
            The controls (A,), and whether they differ from those chosen.
        """
        reach = self.rate * seconds
        limited = np.clip(controls, self.low, self.high)
        limited = np.clip(limited, previous - reach, previous + reach)
        is_limited = bool((limited != controls).any())
        return (limited if is_limited else controls), is_limited


def read_limits(
    spec: EnvSpec, ends: Sequence[float] | None = None, rate: Sequence[float] | None = None
) -> Limits:
    """Returns the limits of a robot.

    Args:
        spec: Of the environment of training; its range of actions holds already.
        ends: Smallest and largest control, or those of each control in turn (2 A,); None: no limit
            but that of the spec.
        rate: Largest change of all controls or of each one (A,) [robot's units/s]; None: no limit.

    Raises:
        ConfigError: The numbers are as many as neither, or not in order, the safe control is
            outside of the range, or actions are discrete.
    """
    home = safe_control(spec)
    size = len(home)
    if spec.discrete and (ends is not None or rate is not None):
        raise ConfigError(f"--range, --rate-limit: the actions of {spec.name} are discrete")
    pairs = np.array([-math.inf, math.inf] if ends is None else ends, dtype=float)
    rates = np.array([math.inf] if rate is None else rate, dtype=float)
    if pairs.size not in (2, 2 * size):
        hint = f"must be 2, or 2 for {size} controls: LOW,HIGH of each in turn"
        raise ConfigError(f"--range has {pairs.size} numbers: {hint}")
    if rates.size not in (1, size) or not (rates > 0.0).all():
        hint = f"must be 1 positive number, or 1 for each of {size} controls"
        raise ConfigError(f"--rate-limit {','.join(f'{each:g}' for each in rates)}: {hint}")
    low, high = np.broadcast_to(pairs.reshape(-1, 2), (size, 2)).T
    if (low > high).any():
        i = int(np.argmax(low > high))
        hint = "LOW is above HIGH; give the smaller one first"
        raise ConfigError(f"--range {low[i]:g},{high[i]:g}: {hint}")
    outside = np.flatnonzero(~((low <= home) & (home <= high)))
    if len(outside):
        i = int(outside[0])
        place = f"the safe control {i} of {spec.name}, {home[i]:g}"
        raise ConfigError(f"--range {low[i]:g},{high[i]:g}: must hold {place}")
    return Limits(home, low, high, np.broadcast_to(rates, size))


class SentControls:
    """Controls that a robot is sent one after another, each limited by the one before.

    Args:
        limits: Limits on the controls.
        dt: Time of a control step, which bounds the change between two messages [s].
    """

    def __init__(self, limits: Limits, dt: float):
        self.home, self._limits, self._dt = limits.home, limits, dt
        self._last = limits.home

    def restart(self) -> None:
        """Assumes the safe control as the last one, because another robot comes."""
        self._last = self.home

    def send(self, controls: np.ndarray) -> tuple[np.ndarray, Flag]:
        """Returns controls (A,) after the limits, with the flag LIMITED if these changed them."""
        self._last, is_limited = self._limits.apply(controls, self._last, self._dt)
        return self._last, Flag(Flag.LIMITED * is_limited)

    def send_home(self) -> tuple[np.ndarray, Flag]:
        """Returns the safe control (A,), or as much of the way there as the rate allows."""
        controls, limited = self.send(self.home)
        return controls, Flag.SAFE | limited


class Watchdog:
    """Tells when a robot is silent in mid-episode. Times are of one monotonic clock [s].

    Args:
        limit: Silence after which the robot is sent the safe control, again and again [s].
    """

    def __init__(self, limit: float):
        self.limit = limit
        self._heard: float | None = None
        self._next = math.inf
        self.is_silent = False

    def feed(self, now: float) -> float | None:
        """Notes an observation; returns the length of the silence that it ends, if any [s]."""
        silence = now - self._heard if self.is_silent and self._heard is not None else None
        self._heard, self._next, self.is_silent = now, now + self.limit, False
        return silence

    def pause(self) -> None:
        """Waits for the next episode."""
        self._heard, self._next, self.is_silent = None, math.inf, False

    def wait(self, now: float) -> float:
        """Returns the time until the safe control is due; infinite between episodes [s]."""
        return max(0.0, self._next - now)

    def expire(self, now: float) -> bool:
        """Returns whether the safe control is due; if so, it is due again after the limit."""
        if now < self._next:
            return False
        self._next, self.is_silent = now + self.limit, True
        return True

    def hasten(self, now: float, seconds: float) -> None:
        """Makes the next safe control due after a time, unless it is due before [s]."""
        self._next = min(self._next, now + seconds)
