"""Any Gymnasium environment with `sample_tasks(rng, n)` and `set_task(task)` as a BatchEnv, in worker processes.

Row m of the batch is an environment of its own; the rows are cut into as many shares as there are workers. Observations,
actions and rewards lie in shared memory, a step costs one short message to each worker. Nothing depends on the number of
workers, because a row's episode is a function of its task, its seed (drawn from the row's stream) and its actions. By the
same token a worker that dies is replaced and its share played again up to where it was.

An end that the environment calls `truncated` before the horizon is an end like `terminated`: no reward can follow, and the
time features of the baseline see the time. `truncated` at the horizon is the horizon, which is part of the task.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np

from metarl.core.env import EnvSpec, NoPictures, Step, as_pixels, check_streams, checked_tasks
from metarl.core.tasks import describe
from metarl.envs.plugins.interface import Facts
from metarl.envs.plugins.task_encoding import ForeignTasks
from metarl.envs.plugins.worker import Block
from metarl.envs.plugins.worker_pool import Died, Failed, Resources, Worker

TIMEOUT = 120.0
"""How long one row may take for one step or reset, and a plug-in to start, before it counts as hanging [s]."""

MAX_STARTS = 3
"""A share whose workers died this often at the same place is not tried again."""


class PluginFailure(ValueError):
    """A plug-in breaks the contract, raises, hangs or dies; names the environment and the place."""


@dataclass
class _Episode:
    """What the current episodes of the batch can be played again from.

    Attributes:
        seeds: (M,) of the resets.
        tasks: (M, D).
        actions: (M, A) of each step, as sent.
        stepped: (M,) of each step.
        rewards: (M,) of each step.
    """

    seeds: list[int]
    tasks: np.ndarray
    actions: list[np.ndarray] = field(default_factory=list)
    stepped: list[np.ndarray] = field(default_factory=list)
    rewards: list[np.ndarray] = field(default_factory=list)


class ForeignEnv:
    """M Gymnasium environments in worker processes.

    Args:
        name: Registry name.
        make: Makes one environment: a class, or any callable that `multiprocessing` can send.
        threads: Worker processes; 0 takes all cores. Results do not depend on it.
        timeout: See TIMEOUT.

    Raises:
        PluginFailure: The environment cannot be made or breaks the contract.
    """

    def __init__(
        self, name: str, make: Callable[..., Any], threads: int = 0, *, timeout: float = TIMEOUT
    ):
        self.make = make
        self._name, self._timeout = name, timeout
        self._max_workers = threads or len(os.sched_getaffinity(0))
        try:
            ForkingPickler.dumps(make)  # as the pipe to a worker will, before one is started
        except Exception as error:
            raise PluginFailure(f"{name}: {make!r} cannot be sent to a worker: {error}") from error
        self._resources = Resources()
        self._finalizer = weakref.finalize(self, self._resources.release)
        self._facts: Facts | None = None
        self._tasks: np.ndarray | None = None
        self._episode: _Episode | None = None
        self._films: list[_Episode] = []
        self._start_up_to(1)
        self._facts = facts = self._resources.workers[0].facts
        self.spec = EnvSpec(
            name=name,
            version=1,
            obs_size=len(facts.obs_low),
            action_size=len(facts.action_low),
            horizon=facts.horizon,
            dt=facts.dt,
            action_scale=facts.action_scale,
            tasks=ForeignTasks(
                facts.variables, facts.held_out, facts.form is None, self._draw, facts.test_tasks
            ),
            reward=facts.summary or "as the plug-in defines it",
            floors={k: float(v) for k, v in facts.floors.items()},
            note="" if facts.held_out else "test tasks are among the training tasks",
            discrete=facts.discrete,
        )

    # --- the contract of BatchEnv ------------------------------------------------------------------------------------

    def set_tasks(self, tasks: np.ndarray, num_episodes: int) -> None:
        """Gives tasks (N, D) to the batch, each to num_episodes neighbouring rows.

        Raises:
            ValueError: The tasks are not (N, D) or not finite.
            PluginFailure: set_task raised.
        """
        rows = np.repeat(checked_tasks(self.spec, tasks), num_episodes, axis=0)
        num_rows, block = len(rows), self._resources.block
        num_shares = min(self._max_workers, num_rows)
        self._start_up_to(num_shares)
        if block is None or block.num_rows != num_rows:
            if block is not None:
                block.release(unlink=True)
            self._resources.block = Block(num_rows, self.spec.obs_size, self.spec.action_size)
        self._tasks, self._num_episodes, self._episode = rows, num_episodes, None
        self._bounds = [num_rows * i // num_shares for i in range(num_shares + 1)]
        self._exchange("take", range(num_shares))

    def reset(self, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        """Starts M episodes, row m with a seed drawn from the stream rngs[m]; returns obs (M, S).

        Raises:
            RuntimeError: No tasks were set.
            ValueError: The number of streams is not M.
            PluginFailure: An environment broke the contract.
        """
        check_streams(self.spec, None if self._tasks is None else len(self._tasks), rngs)
        assert self._tasks is not None
        self._episode = _Episode([int(rng.integers(2**31)) for rng in rngs], self._tasks)
        self._filmed: int | None = None
        self._exchange("reset", range(len(self._bounds) - 1))
        self._obs = self._block.obs.copy()
        return self._obs

    def step(self, action: np.ndarray, alive: np.ndarray) -> Step:
        """Steps the rows of the mask alive (M,) with action (M, A) [policy output]; a non-finite action is a fault.

        Raises:
            RuntimeError: There was no reset.
            PluginFailure: An environment broke the contract; names task, episode and step.
        """
        episode, facts = self._episode, self._facts
        if episode is None or facts is None:
            raise RuntimeError(f"{self._name}: call reset before step")
        fault = alive & ~np.isfinite(action).all(axis=1)
        stepped = alive & ~fault
        scaled = np.multiply(action, facts.action_scale, dtype=float)
        if not facts.discrete:  # of alternatives it is the largest that counts
            np.clip(scaled, facts.action_low, facts.action_high, out=scaled)
        episode.actions.append(scaled)
        episode.stepped.append(stepped)
        self._load(slice(None), -1)
        shares = zip(self._bounds, self._bounds[1:], strict=False)
        self._exchange("step", [i for i, (a, b) in enumerate(shares) if stepped[a:b].any()])
        block = self._block
        self._obs = block.obs.copy()
        reward = np.where(stepped, block.reward, 0.0)
        episode.rewards.append(reward)
        return Step(self._obs, reward, stepped & block.ended, fault)

    def snapshot(self) -> np.ndarray:
        """What a film needs (M, 3): number of the episode, row, steps taken. The actions are kept here.

        Raises:
            NoPictures: The environment draws no pictures.
            RuntimeError: There was no reset.
        """
        if self._facts is not None and self._facts.pictures:
            raise NoPictures(f"{self._name} draws no pictures: {self._facts.pictures}")
        if self._episode is None:
            raise RuntimeError(f"{self._name}: call reset before snapshot")
        if self._filmed is None:
            self._filmed = len(self._films)
            self._films.append(self._episode)
        steps = len(self._episode.actions)
        return np.array([(self._filmed, row, steps) for row in range(len(self._obs))], dtype=float)

    def render(
        self, states: np.ndarray, task: np.ndarray, *, width: int, height: int
    ) -> Iterator[np.ndarray]:
        """Plays the episode of snapshots (L, 3) again in an environment that draws: L frames (height, width, 3) uint8.

        Raises:
            NoPictures: It cannot draw here, or the episode did not come out the same again.
        """
        del task  # the episode knows its own
        number, row = (int(value) for value in states[0, :2])
        episode, taken = self._films[number], 0
        try:
            worker = self._start()
            try:
                worker.ask("film", episode.tasks[row], episode.seeds[row])
                for steps in states[:, 2].astype(int):
                    actions = np.array([action[row] for action in episode.actions[taken:steps]])
                    picture, rewards = worker.ask("frame", actions)
                    if rewards != [float(reward[row]) for reward in episode.rewards[taken:steps]]:
                        raise NoPictures(
                            f"{self._name} cannot be filmed: it drew another episode than was recorded"
                        )
                    taken = steps
                    yield _fitted(picture, width, height)
            finally:
                worker.kill()
        except (Failed, Died) as error:
            raise NoPictures(f"{self._name} cannot be filmed: {error}") from error

    def task_words(self, task: np.ndarray) -> str:
        """Says a task (D,) for people, as the plug-in does if it has a method `task_words(task)`."""
        return self._ask_first("words", task) or self._numbers(task)

    def _numbers(self, task: np.ndarray) -> str:
        if self._facts is None or self._facts.form is None:
            draw, size, index = (int(number) for number in task)
            return f"number {index} of {size} in draw {draw}"
        return describe(self.spec.tasks.variables, task)

    def close(self) -> None:
        """Ends the workers and gives back the memory; films are forgotten."""
        self._resources.release()
        self._films.clear()
        self._tasks = self._episode = None

    @property
    def obs_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest observation (S,), (S,) by the plug-in's own account."""
        assert self._facts is not None
        return self._facts.obs_low, self._facts.obs_high

    def forgets_its_task_at_reset(self, tasks: np.ndarray) -> bool:
        """Whether tasks (N, D) that make no difference do make one when they are set after the reset."""
        return self._ask_first("forgets", tasks)

    def draws_again(self, task: np.ndarray) -> bool:
        """Whether the draw that a task (D,) comes from gives the same again, where its numbers do not show it."""
        opaque = self._facts is not None and self._facts.form is None
        return not opaque or self._ask_first("draws_again", int(task[0]), int(task[1]))

    # --- workers -----------------------------------------------------------------------------------------------------

    @property
    def _block(self) -> Block:
        assert self._resources.block is not None
        return self._resources.block

    def _start(self) -> Worker:
        return Worker(self.make, self._facts, self._timeout)

    def _start_up_to(self, count: int) -> None:
        """Starts workers until there are so many."""
        try:
            while len(self._resources.workers) < count:
                self._resources.workers.append(self._start())
        except Failed as error:
            raise PluginFailure(f"{self._name}: {error}") from error
        except Died as error:
            raise PluginFailure(f"{self._name}: its process died at the start ({error})") from error

    def _ask_first(self, verb: str, *arguments: Any) -> Any:
        """Asks the first worker something that has no row; it is replaced if it dies."""
        self._start_up_to(1)
        try:
            try:
                return self._resources.workers[0].ask(verb, *arguments)
            except Died as error:
                return self._replace(0, error, verb, *arguments)
        except Failed as error:
            self._resources.release()
            self._tasks = self._episode = None
            raise PluginFailure(f"{self._name}: {verb}: {error}") from error

    def _draw(self, draw: int, num_tasks: int) -> np.ndarray:
        return self._ask_first("sample", draw, num_tasks)

    def _exchange(self, verb: str, shares: Sequence[int] | range) -> None:
        """Lets the workers of some shares do a verb, all at once; a worker that dies is replaced.

        Raises:
            PluginFailure: A row failed, hangs, or kills every worker.
        """
        failures, dead = [], {}
        for share in shares:
            try:
                self._resources.workers[share].send(*self._message(verb, share))
            except Died as error:
                dead[share] = error
        for share in shares:
            if share in dead:
                continue
            try:
                self._resources.workers[share].answer()
            except Died as error:
                dead[share] = error
            except Failed as error:
                failures.append(error)
        for share, error in dead.items():
            try:
                self._replace(share, error, *self._message(verb, share))
            except Failed as failure:
                failures.append(failure)
        if failures:
            first = min(failures, key=lambda failure: -1 if failure.row is None else failure.row)
            place = self._place(first.row, verb)
            if verb != "step":  # there is nothing to play again
                self._tasks, self._episode = None if verb == "take" else self._tasks, None
            raise PluginFailure(f"{self._name}, {place}: {first}") from first

    def _message(self, verb: str, share: int) -> tuple[Any, ...]:
        start, stop = self._bounds[share : share + 2]
        if verb == "take":
            assert self._tasks is not None
            return verb, self._block.name, len(self._tasks), start, self._tasks[start:stop]
        if verb == "reset":
            assert self._episode is not None
            return verb, self._episode.seeds[start:stop]
        return (verb,)

    def _replace(self, share: int, error: Died, verb: str, *arguments: Any) -> Any:
        """Starts a worker in place of a dead one and lets it do all that the dead one had done, then the verb.

        Raises:
            Failed: It fails, or dies again and again.
        """
        workers = self._resources.workers
        for _ in range(MAX_STARTS - 1):
            row = workers[share].row
            workers[share].kill()
            try:
                workers[share] = self._start()
                self._redo(verb, share)
                return workers[share].ask(verb, *arguments)
            except Died as again:
                error = again
        raise Failed(row, f"its process died {MAX_STARTS} times ({error})")

    def _redo(self, verb: str, share: int) -> None:
        """Lets a new worker do what the current tasks and episodes asked of its share before a verb."""
        worker, episode = self._resources.workers[share], self._episode
        if verb == "take" or self._tasks is None:
            return
        worker.ask(*self._message("take", share))
        if verb == "reset" or episode is None:
            return
        if verb != "step" and len(episode.rewards) >= self.spec.horizon:
            return  # what comes next is a reset
        worker.ask(*self._message("reset", share))
        rows = slice(*self._bounds[share : share + 2])
        for step in range(len(episode.rewards)):
            self._load(rows, step)
            worker.ask("step")
        differs = (self._block.obs[rows] != self._obs[rows]).any(axis=1)
        if differs.any():
            row = rows.start + int(np.argmax(differs))
            raise Failed(row, "its process died, and the episode did not come out the same again")
        if verb == "step":
            self._load(rows, -1)

    def _load(self, rows: slice, step: int) -> None:
        """Writes a step of the episode into some rows of the shared memory."""
        assert self._episode is not None
        self._block.action[rows] = self._episode.actions[step][rows]
        self._block.stepped[rows] = self._episode.stepped[step][rows]
        self._block.ended[rows] = False

    def _place(self, row: int | None, verb: str) -> str:
        """Names task, episode and step of a row."""
        if row is None or self._tasks is None:
            return verb
        task, episode = divmod(row, self._num_episodes)
        where = f"task {task} ({self._numbers(self._tasks[row])}), episode {episode}"
        if verb == "step" and self._episode is not None:
            return f"{where}, step {len(self._episode.actions) - 1}"
        return f"{where}, {'set_task' if verb == 'take' else verb}"


def _fitted(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture (h, w, 3), as large as fits into (height, width, 3), in the middle of black."""
    from PIL import Image

    image = Image.fromarray(as_pixels(picture))
    share = min(width / image.width, height / image.height)
    size = max(1, round(image.width * share)), max(1, round(image.height * share))
    frame = Image.new("RGB", (width, height))
    frame.paste(image.resize(size), ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.asarray(frame)
