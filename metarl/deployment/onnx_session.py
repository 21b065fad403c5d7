"""A session of a policy in an ONNX file; needs onnxruntime and NumPy alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from metarl.core.errors import ConfigError, NumericalError
from metarl.core.ranges import require_seed
from metarl.core.rng import stream
from metarl.deployment.onnx_model import OnnxModel, Weights
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

TIMED = ("obs", "action", "reward", "valid")
"""What is recorded of every step of an episode to adapt from."""


class OnnxSession:
    """Plays an exported policy on M = N * E robots, with the methods of `session.Session`.

    Args:
        policy: The policy; it is not changed.
        num_tasks: N.
        num_robots: E, the robots of a task.
        deterministic: Send the mode of the policy. None: as soon as it can, which is from the
            first `adapt` on for a policy that adapts by gradient steps.
        seed: Of the action noise, the same as in a `Session` with this seed.
        raw: Return the policy's outputs in place of the robot's controls.
    """

    def __init__(
        self,
        policy: OnnxModel,
        num_tasks: int = 1,
        num_robots: int = 1,
        *,
        deterministic: bool | None = None,
        seed: int = 0,
        raw: bool = False,
    ):
        require_robots(num_tasks, num_robots)
        require_seed(seed)
        if deterministic is False and not policy.can_adapt:
            hint = "the file has the mode of the policy alone"
            raise ConfigError(f"deterministic = False: {hint}")
        self.spec, self._policy, self._seed, self._raw = policy.spec, policy, seed, raw
        self._size, self._num_rows = (num_tasks, num_robots), num_tasks * num_robots
        self.deterministic = not policy.can_adapt if deterministic is None else deterministic
        self._is_chosen = deterministic is not None
        self.num_episodes = self.num_adaptations = self.num_unusable = self.num_steps = 0
        self._states = policy.initial_states(self._num_rows)
        self._weights: list[Weights] = [{} for _ in range(num_tasks)]
        self._last_obs = np.zeros((self._num_rows, self.spec.obs_size), dtype=np.float32)
        self._reward = np.zeros(self._num_rows, dtype=np.float32)
        self._pending: list[dict[str, np.ndarray]] = []
        self._begin_episode()

    def act(self, obs: Observation, reward: Any = None, done: Any = False) -> np.ndarray:
        """Returns the controls for an observation; see `Session.act`.

        Args:
            obs: Observation of M robots.
            reward: Of the previous control (M,); None at the first step of an episode, and for
                policies that do not read rewards.
            done: The previous control ended the episode (M,).

        Returns:
            Controls (M, A) in the robot's units, or (A,) where obs has no row axis; the index of
            an action, where they are discrete.

        Raises:
            ConfigError: An argument does not fit, or the episode or the trial is longer than the
                policy can use. The session is unchanged.
        """
        self._check_length()
        rows, usable = read_usable(self.spec, obs, self._last_obs)
        outcome = self._read_outcome(reward, done) if self._steps else None
        self._last_obs = rows
        self.num_unusable += int((~usable).sum())
        if outcome:
            self._record_outcome(outcome)
        output = self._choose(rows)
        self._steps, self.num_steps = self._steps + 1, self.num_steps + 1
        return send(self.spec, output, ~usable | ~self._alive, obs, raw=self._raw)

    def end_episode(
        self, reward: Any = None, done: Any = False, obs: Observation | None = None
    ) -> None:
        """Ends the episode of all robots; a memory keeps what it knows.

        Args:
            reward: Of the last control (M,), for robots that were still in their episode.
            done: The task ended (M,): a fall, not the time limit.
            obs: Not used; the argument is that of `Session.end_episode`.

        Raises:
            ConfigError: No step was taken, or an argument does not fit.
        """
        del obs
        if not self._steps:
            raise ConfigError("end_episode: the episode has no step; call act first")
        if self._alive.any():
            self._record_outcome(self._read_outcome(reward, done))
        # nothing can be learned from episodes without noise, so they are not kept
        if self._policy.can_adapt and not self.deterministic:
            episode = {name: self._stack(name) for name in TIMED}
            self._pending = [*self._pending, episode][-MAX_PENDING:]
        self.num_episodes += 1
        self._begin_episode()

    def adapt(self) -> None:
        """Adapts to the episodes since the last call, where the policy does so between episodes.

        It is the last 100 of them (`MAX_PENDING`). Memories have adapted already while they acted.

        Raises:
            ConfigError: There is no episode, or one without action noise, or the policy was
                adapted before its export.
            CheckpointError: The graph of the adaptation is missing, damaged, or another policy's.
            NumericalError: The gradient is not finite; the session is unchanged.
        """
        if self._policy.facts.adapts != "gradient":
            return
        if not self._policy.can_adapt:
            has_adapted = self._policy.facts.adaptations > 0
            reason = "was adapted before its export" if has_adapted else "has no adaptation graph"
            raise ConfigError(f"adapt: the policy {reason}")
        if self.deterministic:
            raise NoActionNoise
        if not self._pending:
            raise ConfigError("adapt: there is no finished episode; call end_episode after each")
        arrays = {
            name: np.concatenate([episode[name] for episode in self._pending], axis=1)
            for name in TIMED
        }
        adapted = []
        for task, weights in enumerate(self._weights):
            own = {name: each[task] for name, each in arrays.items()}
            try:
                adapted.append(self._policy.adapt(weights, self.num_adaptations, **own))
            except FloatingPointError as error:
                raise NumericalError(f"session: task {task}: {error}") from error
        self._weights, self._pending = adapted, []
        self.num_adaptations += 1
        self.deterministic = not self._is_chosen

    # --- steps of an episode ----------------------------------------------------------------------

    def _begin_episode(self) -> None:
        self._steps, self._alive = 0, np.ones(self._num_rows, dtype=bool)
        self._record: dict[str, list[np.ndarray]] = {name: [] for name in TIMED}
        tasks, robots = self._size
        self._rngs = [
            stream(self._seed, "session", 0, self.num_episodes, task, robot)
            for task in range(tasks)
            for robot in range(robots)
        ]

    def _read_outcome(self, reward: Any, done: Any) -> Outcome:
        is_input = bool(self._states) or self._policy.can_adapt
        return read_outcome(reward, done, self._num_rows, self._steps - 1, is_input=is_input)

    def _record_outcome(self, outcome: Outcome) -> None:
        """Records what the previous action led to."""
        self.num_unusable += outcome.num_unusable
        self._reward = np.where(self._alive, outcome.reward, self._reward)
        if self._policy.can_adapt:
            self._record["reward"].append(np.where(self._alive, self._reward, 0.0))
            self._record["valid"].append(self._alive)
        self._alive = self._alive & ~outcome.ended

    def _check_length(self) -> None:
        facts = self._policy.facts
        if self._policy.can_adapt and self._steps == self.spec.horizon:
            hint = "call end_episode, then adapt or go on"
            raise ConfigError(f"the episode has {self._steps} steps, as in training; {hint}")
        if facts.max_steps and self.num_steps >= facts.max_steps:
            hint = "start a new session, or export it with more --max-steps"
            raise ConfigError(f"the memory is full after {facts.max_steps} steps; {hint}")

    def _choose(self, rows: np.ndarray) -> np.ndarray:
        """Chooses actions (M, A) and keeps the states of robots in their episode."""
        is_first = self._steps == 0
        done = np.full(self._num_rows, is_first and self.num_episodes > 0, np.float32)
        if self._policy.can_adapt:
            return self._record_action(rows, self._choose_by_tasks(rows))
        output, after = self._policy.step(rows, self._reward, done, self._states)
        self._states = after if self._alive.all() else self._keep_alive(after)
        return output

    def _keep_alive(self, after: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the states, where the robot is not in its episode those before."""
        kept = {}
        for name, new in after.items():
            mask = self._alive.reshape(-1, *[1] * (new.ndim - 1))
            kept[name] = np.where(mask, new, self._states[name])
        return kept

    def _choose_by_tasks(self, rows: np.ndarray) -> np.ndarray:
        """Chooses actions (M, A) with the weights of every task, and noise before adaptation."""
        robots, outputs = self._size[1], []
        for task, weights in enumerate(self._weights):
            own = slice(task * robots, (task + 1) * robots)
            nothing = np.zeros(robots, np.float32)
            acting = self._policy.acting_weights(weights)
            mean, _ = self._policy.step(rows[own], nothing, nothing, {}, acting)
            if not self.deterministic:
                mean = mean + self._policy.noise_scale(weights) * self._draw(own)
            outputs.append(mean)
        return np.concatenate(outputs)

    def _draw(self, own: slice) -> np.ndarray:
        size = self.spec.action_size
        return np.stack([rng.standard_normal(size, np.float32) for rng in self._rngs[own]])

    def _record_action(self, rows: np.ndarray, output: np.ndarray) -> np.ndarray:
        self._record["obs"].append(rows)
        self._record["action"].append(output)
        return output

    def _stack(self, name: str) -> np.ndarray:
        """Returns what was recorded, (N, E, T, ...)."""
        stacked = np.stack(self._record[name], axis=1)
        whole = np.zeros((len(stacked), self.spec.horizon, *stacked.shape[2:]), stacked.dtype)
        whole[:, : stacked.shape[1]] = stacked  # episodes of a session differ in length
        return whole.reshape(*self._size, *whole.shape[1:])
