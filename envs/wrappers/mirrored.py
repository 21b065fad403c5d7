"""Wrapper that shows every second task in a mirror, so that a policy learns both of its sides.

A robot whose left and right are alike moves in the mirrored way if its actions are mirrored. So a
task in which the left leg is dead is, in the mirror, one in which the right leg is: what is learned
of one side holds for the other. Abdolhosseini et al. 2019, On learning symmetric locomotion,
compare ways to use the symmetry of one task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from metarl.core.env import (
    BatchEnv,
    GradedEnv,
    HasDistances,
    HasFingerprint,
    HasRewardTerms,
    RestartableEnv,
    SplittableEnv,
    Step,
    UnsupportedHere,
)
from metarl.envs.calls import is_action
from metarl.envs.locomotion.env import MujocoBatchEnv
from metarl.envs.mirror import Mirror, find_mirror, reflect_state
from metarl.envs.robots.quantities import LAST_OUTPUT
from metarl.envs.robots.robot import bare_model
from metarl.envs.wrappers.wrapper import Wrapper

NUM_STATES = 16
"""States in which the observation and its mirror image are compared."""

ALIKE = 1e-6
"""Largest difference between a number and the mirror image of another, as a share of the number."""

_COMMAND = {
    "command: speed forward": 1.0,
    "command: speed to the left": -1.0,
    "command: turn to the left": -1.0,
}
"""Signs of the commands in the mirror; they are no function of the state."""


@dataclass(frozen=True)
class Reflection:
    """A mirror image of rows (M, n): the number i is sign[i] times the number index[i].

    Attributes:
        index: (n,).
        sign: (n,).
    """

    index: np.ndarray
    sign: np.ndarray

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """Returns the mirror images of rows (M, n)."""
        return rows[:, self.index] * self.sign


class Mirrored(Wrapper):
    """A BatchEnv whose every second task is seen, and acted in, through a mirror.

    Args:
        env: The environment of a robot with two sides.

    Raises:
        UnsupportedHere: The robot or its observation has no mirror image; the message names what.
    """

    forwarded = (
        BatchEnv,
        RestartableEnv,
        SplittableEnv,
        HasDistances,
        HasRewardTerms,
        GradedEnv,
        HasFingerprint,
    )

    def __init__(self, env: BatchEnv):
        if not isinstance(env, MujocoBatchEnv):
            reason = "it is no robot of MuJoCo, or the robot observes its task"
            raise UnsupportedHere(f"{env.spec.name} cannot be mirrored: {reason}")
        mirror = find_mirror(env.robot, env.robot.model())
        if mirror is None:
            reason = f"{env.robot.name} has no left and right side that correspond"
            raise UnsupportedHere(f"{env.spec.name} cannot be mirrored: {reason}")
        reflections = find_action_reflection(env, mirror), find_obs_reflection(env, mirror)
        self._set(env, *reflections)

    def _set(
        self, env: MujocoBatchEnv, action: Reflection, obs: Reflection, first: int = 1
    ) -> None:
        super().__init__(env)
        self.spec, self._action, self._seen, self._first = env.spec, action, obs, first
        self._rows = np.zeros(0, dtype=bool)

    def split(self, parts: int) -> list[Mirrored]:
        """Returns copies of this environment, for slices of the tasks.

        They begin with a mirrored task in turn, so that slices of odd length give half of all.
        """
        copies = []
        for number, env in enumerate(self._env.split(parts)):
            copy = object.__new__(Mirrored)
            copy._set(env, self._action, self._seen, (self._first + number) % 2)
            copies.append(copy)
        return copies

    def set_tasks(self, tasks: np.ndarray, num_episodes: int) -> None:
        """Sets tasks (N, D), each for num_episodes neighbouring rows; every second is mirrored."""
        self._env.set_tasks(tasks, num_episodes)
        self._rows = np.repeat(np.arange(len(tasks)) % 2 == self._first, num_episodes)

    def reset(self, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        """Starts M episodes, row m from the stream rngs[m]; returns obs (M, S)."""
        return self._reflect(self._env.reset(rngs))

    def reset_rows(
        self,
        rows: np.ndarray,
        rngs: Sequence[np.random.Generator],
        tasks: np.ndarray | None = None,
    ) -> np.ndarray:
        """Starts an episode in the m-th row of the mask rows (M,) from rngs[m].

        With tasks (rows.sum(), D) those rows get them first; a row stays mirrored or not.
        """
        return self._reflect(self._env.reset_rows(rows, rngs, tasks))

    def step(self, action: np.ndarray, alive: np.ndarray) -> Step:
        """Steps the rows of the mask alive (M,) with action (M, A) [policy output]."""
        action = np.asarray(action)
        if is_action(action, (len(self._rows), self.spec.action_size)):  # else the next call raises
            action = action.astype(float)
            action[self._rows] = self._action.apply(action[self._rows])
        step = self._env.step(action, alive)
        return replace(step, obs=self._reflect(step.obs))

    def _reflect(self, obs: np.ndarray) -> np.ndarray:
        obs = obs.copy()
        obs[self._rows] = self._seen.apply(obs[self._rows])
        return obs


def find_action_reflection(env: MujocoBatchEnv, mirror: Mirror) -> Reflection:
    """Returns the mirror image of policy outputs (M, A).

    Raises:
        UnsupportedHere: Two actuators have different scales or centres; names them.
    """
    size, names = env.spec.action_size, [each.name for each in env.spec.actuators]
    index = mirror.actuator.argsort()
    sign = mirror.actuator_sign[index]
    centre, scale = (
        np.broadcast_to(values, size) for values in (env.spec.action_centre, env.spec.action_scale)
    )
    is_even = np.isclose(centre, sign * centre[index]) & np.isclose(scale, scale[index])
    for one in np.flatnonzero(~is_even):
        reason = f"{names[one]} and {names[index[one]]} differ in centre or scale"
        raise UnsupportedHere(f"{env.spec.name} cannot be mirrored: {reason}")
    return Reflection(index, sign)


def find_obs_reflection(env: MujocoBatchEnv, mirror: Mirror) -> Reflection:
    """Finds the mirror image of observations (M, S) from those of states and their mirror images.

    Raises:
        UnsupportedHere: A number of the observation has no mirror image; names it.
    """
    own, reflected = _compare(env, mirror)
    model = bare_model(env.robot)
    # without the factors of their terms
    names = [each.name for term in env.parts for each in term.part.quantities(model)]
    actuators = [each.name for each in env.spec.actuators]
    index, sign = np.arange(len(names)), np.ones(len(names))
    for number, name in enumerate(names):
        if name in _COMMAND:
            sign[number] = _COMMAND[name]
            continue
        if name.startswith(LAST_OUTPUT):
            one = actuators.index(name.removeprefix(LAST_OUTPUT))
            index[number] = names.index(LAST_OUTPUT + actuators[mirror.actuator[one]])
            sign[number] = mirror.actuator_sign[one]
            continue
        index[number], sign[number] = _find_partner(own, reflected[:, number], name, env.spec.name)
    return Reflection(index, sign)


def _find_partner(own: np.ndarray, image: np.ndarray, name: str, env: str) -> tuple[int, float]:
    """Returns the number of an observation whose values, but for a sign, are those of an image.

    Args:
        own: Observations (K, S) in the states.
        image: The number (K,) in their mirror images.
        name: Of the number, for the message.
        env: Of the environment.
    """
    tolerance = ALIKE * np.abs(image).max()
    for sign in (1.0, -1.0):
        found = np.flatnonzero((np.abs(own - sign * image[:, None]) <= tolerance).all(axis=0))
        if len(found) == 1 and tolerance > 0.0:
            return int(found[0]), sign
    reason = f"{name!r} of the observation has no mirror image"
    raise UnsupportedHere(f"{env} cannot be mirrored: {reason}")


def _compare(env: MujocoBatchEnv, mirror: Mirror) -> tuple[np.ndarray, np.ndarray]:
    """Returns observations (K, S) in K states, and in their mirror images."""
    rng, rest = np.random.default_rng(0), env.robot.rest()
    qpos = rest + 0.1 * rng.uniform(-1.0, 1.0, (NUM_STATES, len(rest)))
    qpos[:, 3:7] /= np.linalg.norm(qpos[:, 3:7], axis=1, keepdims=True)
    qvel = rng.uniform(-1.0, 1.0, (NUM_STATES, len(mirror.dof)))
    images = [reflect_state(mirror, rest, *state) for state in zip(qpos, qvel, strict=True)]
    reflected = (np.stack(each) for each in zip(*images, strict=True))
    both = [np.concatenate(pair) for pair in zip((qpos, qvel), reflected, strict=True)]
    (trial,) = env.split(1)
    try:
        trial.set_tasks(env.spec.tasks.sample(rng, 1), 2 * NUM_STATES)
        obs = trial.restore(*both).copy()
    finally:
        trial.close()
    return obs[:NUM_STATES], obs[NUM_STATES:]
