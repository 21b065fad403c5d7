"""Rollouts and trials on this machine: all tasks and episodes in lock-step."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import numpy as np
import torch

from metarl.core.env import BatchEnv, GradedEnv, HasDistances, SplittableEnv, supports
from metarl.core.errors import ConfigError
from metarl.core.learner import C, JoinableContext, Learner
from metarl.core.machine.parallel import ALONE, Group, one_torch_thread, own_slice
from metarl.core.rollout import Metrics, Rollout
from metarl.sampling.recording import Arrays, Recording, allocate, to_rollout
from metarl.sampling.trials import (
    Key,
    RewardSums,
    average_terms,
    cut_tasks,
    run_trial,
    take_reward_sums,
    to_tensors,
)

Observer = Callable[[int, np.ndarray], None]
"""Called after every step with (rollout k, valid (M,)), for videos."""


MIN_ROWS_TO_SPLIT = 64
"""Rows from which the tasks are played in two halves: the interpreter's time for a step of fewer
rows exceeds that of their physics, and each half costs it again."""


def _play(
    env: BatchEnv,
    learner: Learner[C],
    context: C,
    recording: Recording,
    rngs: Sequence[np.random.Generator],
    *,
    explore: bool = True,
    after_step: Callable[[np.ndarray], bool | None] = lambda valid: None,
) -> C:
    """Plays an episode in every row; returns the context after the last action.

    `after_step` is called with the mask of valid steps (M,); True stops the rollout.
    """
    current = env.reset(rngs)
    recording.draw_noise(rngs)
    # threads of torch's pool that spin beside the physics threads slow both several times
    with one_torch_thread(), torch.inference_mode():
        feedback = None
        for t in range(recording.horizon):
            recording.record_obs(t, current)
            obs, noise = recording.obs[t], recording.noise[t]
            chosen, context = learner.act(context, obs, noise, feedback, explore=explore)
            step = env.step(recording.record_action(t, chosen), recording.alive)
            feedback, current = recording.record_step(t, step), step.obs
            if after_step(recording.arrays["valid"][:, t]) or not recording.alive.any():
                break
    return context


def rollout(
    env: BatchEnv,
    learner: Learner[C],
    context: C,
    key: Key,
    k: int,
    size: tuple[int, int],
    *,
    explore: bool = True,
    observer: Observer | None = None,
) -> tuple[Rollout, C]:
    """Runs one episode in each of the N * E rows of an environment whose tasks are set.

    Args:
        env: The environment, after set_tasks.
        learner: Its `act` chooses the actions.
        context: The learner's context.
        key: The streams.
        k: Number of the rollout in the trial.
        size: N, E.
        explore: Draw actions; otherwise send the mode of the policy.
        observer: Called after every step, for videos.

    Returns:
        The rollout and the context after the last action. Peak memory is that of the rollout's
        arrays.

    Raises:
        FloatingPointError: The policy chose an action that is not finite.
        EnvironmentContractError: An observation or a reward is not finite, without a fault.
    """

    def after_step(valid: np.ndarray) -> None:
        if observer is not None:
            observer(k, valid)

    arrays = allocate(env.spec, math.prod(size))
    recording, rngs = Recording(arrays, size[1]), key.episodes(k, *size)
    options: dict[str, Any] = {"explore": explore, "after_step": after_step}
    context = _play(env, learner, context, recording, rngs, **options)
    recording.finish(k)
    return to_rollout(arrays, size), context


class Collector:
    """Runs trials, and uses all cores.

    An environment that can be split plays its tasks in two halves at the same time: while the
    policy chooses actions for one half, the physics of the other go on. The halves do not depend on
    the number of threads, so the results do not either. Few rows are not split. Each trial
    overwrites the rollouts of the previous one.

    The processes of a group each play a share of the slices, at least one, and give each other the
    episodes. Few rows are played by all of them. Two processes play the halves of one, so the
    results are the same; more slices may change the last bits of what a policy computes.

    Args:
        env: The environment.
        slices: Slices of the tasks in place of halves, also of few rows; 0 is halves, as above. The
            last bits of what a policy computes may depend on them, see `--sampler.slices`.
        group: The processes.
    """

    def __init__(self, env: BatchEnv, slices: int = 0, group: Group = ALONE):
        self.env, self._min_rows = env, 0 if slices else MIN_ROWS_TO_SPLIT
        self._group = group
        self._parts: Sequence[BatchEnv] = []
        self._threads = 1
        if slices != 1 and supports(env, SplittableEnv):
            self._parts, self._threads = env.split(slices or 2), env.threads
        self._size, self._played = (0, 0), slice(0, 0)
        self._memory: dict[int, tuple[int, Arrays]] = {}
        self._stop = threading.Event()

    def trial(
        self,
        learner: Learner[C],
        tasks: np.ndarray,
        num_episodes: int,
        num_adaptations: int,
        key: Key,
        *,
        is_training: bool = False,
    ) -> tuple[list[Rollout], C]:
        """Runs K + 1 rollouts of tasks (N, D); see `run_trial`."""
        size = num_episodes, num_adaptations
        return run_trial(self, learner, tasks, size, key, is_training=is_training)

    def count_slices(self, num_tasks: int, num_episodes: int, *, whole: bool = False) -> int:
        """Returns the number of slices in which tasks are played; see `set_tasks`."""
        is_small = num_tasks < 2 or num_tasks * num_episodes < self._min_rows
        count = 1 if whole or is_small else max(len(self._parts), self._group.size)
        return min(count, num_tasks)

    def list_parts(self, count: int) -> Sequence[BatchEnv]:
        """Returns the environments that play `count` slices of tasks."""
        return [self.env] if count == 1 else self._parts[:count]

    def set_tasks(self, tasks: np.ndarray, num_episodes: int, *, whole: bool = False) -> None:
        """Gives tasks (N, D) to the environment, each to num_episodes neighbouring rows.

        Args:
            tasks: (N, D).
            num_episodes: E.
            whole: Do not split it, because the contexts of the learner cannot be split.
        """
        count = self.count_slices(len(tasks), num_episodes, whole=whole)
        self._size = (len(tasks), num_episodes)
        cuts = cut_tasks(len(tasks), count)
        own = cuts[own_slice(count, self._group)] if count > 1 else cuts
        self._played = slice(own[0].start, own[-1].stop)
        self._slices = list(zip(self.list_parts(len(own)), own, strict=True))
        for env, own in self._slices:
            env.set_tasks(tasks[own], num_episodes)

    def rollout(
        self, learner: Learner[C], context: C, key: Key, k: int, *, explore: bool = True
    ) -> tuple[Rollout, C]:
        """Runs one episode in each of the N * E rows, after set_tasks.

        Args:
            learner: Its `act` chooses the actions.
            context: The learner's context.
            key: The streams.
            k: Number of the rollout in the trial.
            explore: Draw actions; otherwise send the mode of the policy.

        Returns:
            The rollout and the context after the last action.

        Raises:
            FloatingPointError: The policy chose an action that is not finite.
            EnvironmentContractError: An observation or a reward is not finite, without a fault.
        """
        episodes, rngs = self._size[1], key.episodes(k, *self._size)
        arrays = self._arrays(k, key.first_task * episodes)
        self._stop.clear()

        def play(env: BatchEnv, own: slice, context: Any) -> Any:
            rows = slice(own.start * episodes, own.stop * episodes)
            recording = Recording({n: array[rows] for n, array in arrays.items()}, episodes)
            options: dict[str, Any] = {"after_step": lambda valid: self._stop.is_set()}
            options["explore"] = explore
            after = _play(env, learner, context, recording, rngs[rows], **options)
            recording.finish(k, key.first_task + own.start)
            return after

        if len(self._slices) == 1 and self._plays_all:
            context = play(*self._slices[0], context)
        else:
            context = self._share(arrays, lambda: self._play_slices(play, context))
        return to_rollout(arrays, self._size), context

    @property
    def _plays_all(self) -> bool:
        """This process plays the tasks of the whole group."""
        return self._played.stop - self._played.start == self._size[0]

    def _share(self, arrays: Arrays, play: Callable[[], Any]) -> Any:
        """Plays the slices of this process, and takes the episodes of the others from them.

        Returns:
            The context after the last action; in the tasks of other processes it is that before.
        """
        if self._plays_all:
            return play()
        tasks, episodes = self._size
        after: list[Any] = []

        def make() -> dict[str, torch.Tensor]:
            after.append(play())
            rows = slice(self._played.start * episodes, self._played.stop * episodes)
            return {name: torch.from_numpy(array[rows]) for name, array in arrays.items()}

        gathered, first = self._group.gather(make), 0
        for rank, found in enumerate(gathered):
            rows = len(found["valid"])
            if rank != self._group.rank:
                for name, value in found.items():
                    arrays[name][first : first + rows] = value.numpy()
            first += rows
        return after[0]

    def _play_slices(self, play: Callable[..., Any], context: Any) -> Any:
        """Plays every slice of the tasks, concurrently if there are threads; joins the contexts.

        Raises:
            ConfigError: Acting changed contexts that cannot be joined.
        """
        before = [context.slice_tasks(own.start, own.stop) for _, own in self._slices]
        work = [(*pair, start) for pair, start in zip(self._slices, before, strict=True)]
        with one_torch_thread():  # threads started inside inherit the number
            is_alone = self._threads == 1
            after = [play(*w) for w in work] if is_alone else self._run_threads(play, work)
        if all(new is old for new, old in zip(after, before, strict=True)):
            return context
        if not supports(context, JoinableContext):
            hint = "give it `join`, or leave out `slice_tasks` (metarl/core/learner.py)"
            raise ConfigError(f"{type(context).__name__} was changed by `act`; {hint}")
        head, tail = (0, self._played.start), (self._played.stop, self._size[0])
        rest = [[context.slice_tasks(*cut)] if cut[0] < cut[1] else [] for cut in (head, tail)]
        return type(context).join([*rest[0], *after, *rest[1]])

    def _run_threads(self, play: Callable[..., Any], work: Sequence[tuple]) -> list[Any]:
        with ThreadPoolExecutor(min(len(work), self._threads)) as pool:
            try:
                running = [pool.submit(play, *each) for each in work]
                return [each.result() for each in running]
            except BaseException:  # also a second Ctrl-C: the pool waits for running slices
                self._stop.set()
                raise

    def _arrays(self, k: int, first_row: int) -> Arrays:
        spec, rows = self.env.spec, math.prod(self._size)
        place, arrays = self._memory.get(k, (0, None))
        if arrays is None or place != first_row or arrays["valid"].shape != (rows, spec.horizon):
            arrays = allocate(spec, rows, first_row)
            self._memory[k] = first_row, arrays
        else:  # clearing costs less than new memory, which the system pages in
            for array in arrays.values():
                array.fill(0)
        return arrays

    def snapshot(self) -> np.ndarray:
        """Returns a copy of the states of all rows (M, n), as far as pictures need them."""
        states = [env.snapshot() for env, _ in self._slices]  # ty: ignore[missing-attribute]
        return np.concatenate(states)

    def set_level(self, level: float) -> None:
        """Sets the level of difficulty of the episodes from now on, see `GradedEnv`."""
        for env in (self.env, *self._parts):
            if supports(env, GradedEnv):
                env.set_level(level)

    def distances(self) -> np.ndarray | None:
        """Returns how far the bases are from their starts (N, E) [m, world]; None without bases.

        Those of the last rollout, see `HasDistances`; a process of a group has its own tasks alone.
        """
        found = [
            env.distances() if supports(env, HasDistances) else None for env, _ in self._slices
        ]
        known = [each for each in found if each is not None]
        return np.concatenate(known).reshape(-1, self._size[1]) if known else None

    def take_reward_terms(self) -> dict[str, float]:
        """Returns the mean of each part of the reward over the steps since the last call.

        It is {} for an environment that does not tell them, and before any step.
        """
        group = ALONE if self._plays_all else self._group
        return average_terms(chain(*group.gather(self._take_reward_sums)))

    def take_counts(self) -> Metrics:
        """Returns nothing: there is nothing to count."""
        return {}

    def _take_reward_sums(self) -> list[RewardSums]:
        """Returns the sums of the tasks that this process has played, as tensors for the others."""
        return to_tensors(take_reward_sums((self.env, *self._parts)))

    def close(self) -> None:
        """Releases the slices and the memory; the environment stays open."""
        for part in self._parts:
            part.close()
        self._memory.clear()
