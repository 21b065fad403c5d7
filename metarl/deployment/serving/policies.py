"""Policies that can be served: their methods, noise in every episode, and the first calls."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from metarl.core.env import EnvSpec


class RobotSession(Protocol):
    """A policy on one robot, as `metarl.deployment.session.Session` is."""

    @property
    def num_unusable(self) -> int:
        """Numbers that were not finite."""

    def act(self, obs: Any, reward: Any = None, done: Any = False) -> np.ndarray:
        """Returns the controls (A,) for an observation."""

    def end_episode(self, reward: Any = None, done: Any = False, obs: Any = None) -> None:
        """Ends the episode; a memory keeps what it knows."""

    def adapt(self) -> None:
        """Takes a gradient step, where the policy adapts by them."""


class ServedPolicy(Protocol):
    """Policy that can be served, as `metarl.TrainedPolicy` is."""

    @property
    def spec(self) -> EnvSpec:
        """Of the environment of training."""

    def start(self) -> RobotSession:
        """Starts a session of one robot on a new task."""


class NoisyPolicy(ServedPolicy, Protocol):
    """Policy whose sessions can draw their actions, as `metarl.TrainedPolicy` is."""

    def start(self, *, deterministic: bool | None = None) -> RobotSession:
        """Starts a session of one robot on a new task, see `TrainedPolicy.start`."""


@dataclass(frozen=True)
class ExploringPolicy:
    """Policy that draws its actions in all episodes, so that it can adapt again and again.

    Attributes:
        policy: The policy, which by itself sends its mode once it has adapted.
    """

    policy: NoisyPolicy

    @property
    def spec(self) -> EnvSpec:
        """Of the environment of training."""
        return self.policy.spec

    def start(self) -> RobotSession:
        """Starts a session of one robot on a new task."""
        return self.policy.start(deterministic=False)


def warm_up(policy: ServedPolicy) -> None:
    """Acts a few times in a session of its own, because the first calls take longest.

    Also exempts all present objects from the collection of garbage (`gc.unfreeze` ends this): with
    torch there are 330,000, and a look at them held a robot for 0.4 s on a busy machine.
    """
    session, obs = policy.start(), np.zeros(policy.spec.obs_size)
    for reward in (None, 0.0, 0.0):
        session.act(obs, reward)
    gc.collect()
    gc.freeze()
