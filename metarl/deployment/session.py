"""A session: a trained policy on robots, which adapts while it is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from metarl.core.env import EnvSpec, Step, supports
from metarl.core.errors import ConfigError, name_failures
from metarl.core.learner import (
    AdaptsWithoutNoise,
    HasFixedPolicy,
    Learner,
    VariesEpisodes,
    adapts_while_acting,
)
from metarl.core.machine.parallel import one_torch_thread
from metarl.core.rollout import Rollout
from metarl.deployment.signals import (
    MAX_PENDING,
    NoActionNoise,
    Observation,
    Outcome,
    read_outcome,
    read_usable,
    require_robots,
    send,
)
from metarl.sampling.recording import Recording, allocate, to_rollout
from metarl.sampling.sampler import Key

if TYPE_CHECKING:
    from metarl.deployment.export.metadata import Origin

Streams = Callable[[int], Sequence[np.random.Generator]]
"""Episode k -> the stream of each robot (M,), from which its action noise is drawn."""

TIMED = ("obs", "action", "log_prob", "reward", "valid")
"""Arrays of a recording with an axis of time."""


class Session:
    """Plays a policy on M = N * E robots: E of each of N tasks, in rows task * E + episode.

    The memory, the scaling of observations, the previous action and the episodes to adapt from are
    kept here. The learner is not changed, so it can serve many sessions.

    Args:
        learner: The learner.
        spec: Of the environment of training.
        num_tasks: N.
        num_robots: E, the robots of a task. They adapt together if the learner pools episodes.
        deterministic: Send the mode of the policy. None: as soon as it can, which is from the
            start for a learner that adapts while it acts, and from the first `adapt` on for others.
        raw: Return the policy's outputs, which environments of metarl take, in place of the
            robot's controls.
        streams: Of the action noise.
        key: Of what a learner draws at the start and when it adapts.
    """

    def __init__(
        self,
        learner: Learner[Any],
        spec: EnvSpec,
        num_tasks: int = 1,
        num_robots: int = 1,
        *,
        deterministic: bool | None = None,
        raw: bool = False,
        streams: Streams | None = None,
        key: Key | None = None,
    ):
        require_robots(num_tasks, num_robots)
        self.spec, self._learner, self._size, self._raw = (
            spec,
            learner,
            (num_tasks, num_robots),
            raw,
        )
        self._num_rows = num_tasks * num_robots
        self._key = key or Key(0, "session", 0)
        self._streams = streams or (lambda k: self._key.episodes(k, *self._size))
        adapts = adapts_while_acting(learner)
        self.deterministic = adapts if deterministic is None else deterministic
        self._is_chosen = deterministic is not None
        self.num_episodes = self.num_adaptations = self.num_unusable = 0
        self._context = learner.begin(*self._size, self._key.tasks("begin", 0, num_tasks))
        self._pending: list[Rollout] = []
        self._num_kept = 0  # since the last adaptation, also those no longer in _pending
        self._steps, self._recording, self._rngs = 0, self._new_recording(), self._streams(0)
        self._last_obs = np.zeros((self._num_rows, spec.obs_size), dtype=np.float32)
        self.origin: Callable[[], Origin] | None = None

    def act(self, obs: Observation, reward: Any = None, done: Any = False) -> np.ndarray:
        """Returns the controls for an observation.

        A number that is not finite never reaches the policy: the robot's row gets the control of a
        policy output of zero (the home pose of servos), its last finite observation takes the place
        of this one, and `num_unusable` counts it.

        Args:
            obs: Observation of M robots.
            reward: Of the previous control (M,), or one number for all; None at the first step of
                an episode, and for policies that do not read rewards.
            done: The previous control ended the episode (M,), for example by a fall. Such a robot
                waits, with the control of an output of zero, until all have ended.

        Returns:
            Controls (M, A) in the robot's units, or (A,) where obs has no row axis; the index of
            an action, where they are discrete.

        Raises:
            ConfigError: An argument does not fit, or the episode is as long as those in training
                and the policy adapts to whole episodes; call `end_episode`. The session is
                unchanged.
        """
        is_full = self._steps == self.spec.horizon
        if is_full and self._learner.pools_episodes:
            hint = "call end_episode, then adapt or go on"
            raise ConfigError(f"the episode has {self._steps} steps, as in training; {hint}")
        rows, usable = read_usable(self.spec, obs, self._last_obs)
        outcome = self._read_outcome(reward, done) if self._steps else None
        self._last_obs = rows
        self.num_unusable += int((~usable).sum())
        feedback = self._record_outcome(rows, outcome) if outcome else None
        if is_full:
            self._make_room()
        chosen = self._choose(rows, feedback)
        output = self._recording.record_action(self._steps, chosen)
        self._steps += 1
        return send(self.spec, output, ~usable | ~self._recording.alive, obs, raw=self._raw)

    def end_episode(
        self, reward: Any = None, done: Any = False, obs: Observation | None = None
    ) -> None:
        """Ends the episode of all robots; a memory keeps what it knows.

        Args:
            reward: Of the last control (M,), for robots that were still in their episode.
            done: The task ended (M,): a fall, not the time limit.
            obs: After the last control, for learners that use it.

        Raises:
            ConfigError: No step was taken, or an argument does not fit.
        """
        if not self._steps:
            raise ConfigError("end_episode: the episode has no step; call act first")
        rows, usable = self._last_obs, np.ones(self._num_rows, dtype=bool)
        if obs is not None:
            rows, usable = read_usable(self.spec, obs, self._last_obs)
        outcome = self._read_outcome(reward, done) if self._recording.alive.any() else None
        self._last_obs = rows
        self.num_unusable += int((~usable).sum())
        if outcome:
            self._record_outcome(rows, outcome)
            going_on = self._recording.alive
            self._recording.arrays["last_obs"][going_on] = rows[going_on]
        with name_failures("session"):
            self._recording.finish(self.num_episodes)
        rollout = to_rollout(self._recording.arrays, self._size)
        if not self._learner.pools_episodes:
            self._adapt(rollout, self._context)
        elif self._can_learn:  # others are not kept
            self._pending = [*self._pending, rollout][-MAX_PENDING:]
            self._num_kept += 1
            self._context = self._select(self._num_kept, 1)
        self.num_episodes += 1
        self._steps, self._recording = 0, self._new_recording()
        self._rngs = self._streams(self.num_episodes)

    def adapt(self) -> None:
        """Adapts to the episodes since the last call, where the learner does so between episodes.

        It is the last 100 of them (`MAX_PENDING`). Memories have adapted already while they acted.
        A guess of the task that PEARL renews after every step leaves out the steps of an episode
        that is still running: adapt after `end_episode`.

        Raises:
            ConfigError: There is no episode, or those of a learner that adapts by gradient steps
                have no action noise.
            NumericalError: The gradient is not finite; the session is unchanged.
        """
        if not self._learner.pools_episodes:
            return
        if not self._can_learn:
            raise NoActionNoise
        if not self._pending:
            raise ConfigError("adapt: there is no finished episode; call end_episode after each")
        parts = zip(*(vars(rollout).values() for rollout in self._pending), strict=True)
        rollout = Rollout(*(torch.cat(each, dim=1) for each in parts))
        count = len(self._pending)
        self._adapt(rollout, self._select(self._num_kept - count, count))
        self.num_adaptations += 1
        self._pending, self._num_kept = [], 0
        self._context = self._select(0, 1)
        self.deterministic = self.deterministic or not self._is_chosen

    def export(self, path: str | Path, *, format: str = "onnx") -> list[Path]:  # noqa: A002
        """Exports the policy that this session has adapted; returns the files.

        Of bmaml it is the particle of the first robot's next episode, of gp the policy that is
        given what this episode tries.

        Args:
            path: The file.
            format: "onnx" or "torchscript".

        Raises:
            ConfigError: The session has not adapted, or the learner has no policy to write, or
                there are several tasks, or the session does not come from `policy.start()`.
            ResourceError: The package onnx is missing.
        """
        if self.origin is None:
            raise ConfigError("export: this session has no run; begin it with policy.start()")
        if not supports(self._learner, HasFixedPolicy) or not self.num_adaptations:
            hint = "call adapt first, or export the policy with metarl.export"
            raise ConfigError(f"export: the session has no adapted weights; {hint}")
        if self._size[0] > 1:
            raise ConfigError(f"export: the session has {self._size[0]} tasks; one can be exported")
        from metarl.deployment.export.write import export_policy

        params = self._learner.read_policy(self._context)
        count = self.num_adaptations
        origin, file = self.origin(), Path(path)
        return export_policy(origin, file, form=format, params=params, adaptations=count)

    @property
    def _can_learn(self) -> bool:
        """The learner can adapt to episodes that are played as now."""
        return not self.deterministic or supports(self._learner, AdaptsWithoutNoise)

    # --- steps of an episode ----------------------------------------------------------------------

    def _read_outcome(self, reward: Any, done: Any) -> Outcome:
        is_input = self._context is not None
        return read_outcome(reward, done, self._num_rows, self._steps - 1, is_input=is_input)

    def _record_outcome(self, rows: np.ndarray, outcome: Outcome) -> Any:
        """Records what the previous action led to; returns the learner's feedback."""
        self.num_unusable += outcome.num_unusable
        no_fault = np.zeros(self._num_rows, dtype=bool)
        step = Step(rows, outcome.reward, outcome.ended, no_fault)
        return self._recording.record_step(self._steps - 1, step)

    def _choose(self, rows: np.ndarray, feedback: Any) -> Any:
        """Records the observation and chooses actions for it."""
        recording, t = self._recording, self._steps
        recording.record_obs(t, rows)
        for row, rng in enumerate(self._rngs):
            rng.standard_normal(dtype=np.float32, out=recording.arrays["action"][row, t])
        inputs = recording.obs[t], recording.noise[t], feedback
        with one_torch_thread(), torch.inference_mode():
            chosen, self._context = self._learner.act(
                self._context, *inputs, explore=not self.deterministic
            )
        return chosen

    def _make_room(self) -> None:
        """Forgets the oldest step of robots whose episode outlasts those of training."""
        arrays = self._recording.arrays
        moved = self._recording.alive | arrays["valid"][:, -1]
        for name in TIMED:
            arrays[name][moved, :-1] = arrays[name][moved, 1:]
        self._steps -= 1

    def _new_recording(self) -> Recording:
        return Recording(allocate(self.spec, self._num_rows), self._size[1])

    def _select(self, first: int, count: int) -> Any:
        """Returns the context for count episodes of each robot, first of them after adapting."""
        if not supports(self._learner, VariesEpisodes):
            return self._context
        robots = self._size[1]
        return self._learner.select_episodes(self._context, first * robots, count * robots)

    def _adapt(self, rollout: Rollout, context: Any) -> None:
        rngs = self._key.tasks("adapt", self.num_adaptations + 1, self._size[0])
        with name_failures("session"):
            self._context = self._learner.adapt(context, rollout, rngs)
