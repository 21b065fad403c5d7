"""BatchEnv of Gymnasium environments with `sample_tasks` and `set_task`, in worker processes.

Each row of the batch is an environment of its own; each worker steps one shard of the rows.
Observations, actions and rewards lie in shared memory, and a step costs one short message per
worker. The results do not depend on the number of workers, because the episode of a row is a
function of its task, its seed (drawn from the row's stream) and its actions. For the same reason a
worker that dies is replaced, and the new worker replays the shard up to the current step.

If an environment sets `truncated` before the horizon, the episode ends as if `terminated`: no
reward can follow, and the time features of the baseline contain the time. `truncated` at the
horizon is not an end, because the horizon is part of the task.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from metarl.core.env import NoPictures, Step, check_streams, check_tasks
from metarl.core.messages import warn
from metarl.core.tasks import describe_task
from metarl.envs.plugins import main_module
from metarl.envs.plugins.interface import Facts, make_spec
from metarl.envs.plugins.processes.block import Block
from metarl.envs.plugins.processes.output import Output
from metarl.envs.plugins.processes.usage import Usage
from metarl.envs.plugins.recording import Recording, render_frames
from metarl.envs.plugins.values import PluginFailure, SilentPlugin
from metarl.envs.plugins.worker_pool import Died, Failed, Patience, Resources, Worker

TIMEOUT = 120.0
"""Maximum time of one step or reset of one row, and of the start of a plug-in [s]."""

MAX_STARTS = 3
"""A shard is given up after its workers died this often at the same step."""


class SubprocEnv:
    """M Gymnasium environments in worker processes.

    Args:
        name: Registry name.
        make: Makes one environment: a class, or any callable that `multiprocessing` can send.
        threads: Worker processes; 0 takes all cores. Results do not depend on it.
        timeout: See TIMEOUT.

    Attributes:
        restarts: Workers that died and were replaced.

    Raises:
        PluginFailure: The environment cannot be made or breaks the contract.
    """

    def __init__(
        self, name: str, make: Callable[..., Any], threads: int = 0, *, timeout: float = TIMEOUT
    ):
        self.make = make
        self._name, self._patience, self._output = name, Patience(timeout), Output(name)
        self.restarts = 0
        self._max_workers = threads or len(os.sched_getaffinity(0))
        try:
            self._is_in_main = main_module.defines(make)
        except Exception as error:
            raise PluginFailure(f"{name}: {make!r} cannot be sent to a worker: {error}") from error
        if self._is_in_main and not main_module.is_importable():
            hint = "move it to a module, a file such as my_env.py"
            raise PluginFailure(f"{name}: a worker cannot import it from a notebook; {hint}")
        self._resources = Resources()
        self._finalizer = weakref.finalize(self, self._resources.release)
        self._facts: Facts | None = None
        self._tasks: np.ndarray | None = None
        self._episode: Recording | None = None
        self._films: list[Recording] = []
        self._start_up_to(1)
        self._facts = self._resources.workers[0].facts
        self.spec = make_spec(name, self._facts, self._draw)

    # --- the contract of BatchEnv --------------------------------------------------------------

    def set_tasks(self, tasks: np.ndarray, num_episodes: int) -> None:
        """Assigns tasks (N, D) to the batch, each to num_episodes neighbouring rows.

        Raises:
            ValueError: The tasks are not (N, D) or not finite.
            PluginFailure: set_task raised.
        """
        self._patience.is_hurried = False
        rows = np.repeat(check_tasks(self.spec, tasks), num_episodes, axis=0)
        num_rows, block = len(rows), self._resources.block
        num_shards = min(self._max_workers, num_rows)
        self._start_up_to(num_shards)
        if block is None or block.num_rows != num_rows:
            if block is not None:
                block.release()
            self._resources.block = Block(num_rows, self.spec.obs_size, self.spec.action_size)
        self._tasks, self._num_episodes, self._episode = rows, num_episodes, None
        self._bounds = [num_rows * i // num_shards for i in range(num_shards + 1)]
        self._exchange("assign", range(num_shards))
        self._block.unlink()

    def reset(self, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        """Starts M episodes, row m with a seed drawn from the stream rngs[m]; returns obs (M, S).

        Raises:
            RuntimeError: No tasks were set.
            ValueError: The number of streams is not M.
            PluginFailure: An environment broke the contract.
        """
        check_streams(self.spec, None if self._tasks is None else len(self._tasks), rngs)
        assert self._tasks is not None
        self._episode = Recording([int(rng.integers(2**31)) for rng in rngs], self._tasks)
        self._filmed: int | None = None
        self._exchange("reset", range(len(self._bounds) - 1))
        self._obs = self._block.obs.copy()
        return self._obs

    def step(self, action: np.ndarray, alive: np.ndarray) -> Step:
        """Steps the rows of the mask alive (M,) with action (M, A) [policy output].

        A non-finite action is a fault.

        Raises:
            RuntimeError: There was no reset.
            PluginFailure: An environment broke the contract; names task, episode and step.
        """
        episode, facts = self._episode, self._facts
        if episode is None or facts is None:
            raise RuntimeError(f"{self._name}: call reset before step")
        fault = alive & ~np.isfinite(action).all(axis=1)
        stepped = alive & ~fault
        episode.actions.append(facts.actions.convert(action))
        episode.stepped.append(stepped)
        self._load(slice(None), -1)
        bounds = zip(self._bounds, self._bounds[1:], strict=False)
        self._exchange("step", [i for i, (a, b) in enumerate(bounds) if stepped[a:b].any()])
        block = self._block
        self._obs = block.obs.copy()
        reward = np.where(stepped, block.reward, 0.0)
        episode.rewards.append(reward)
        return Step(self._obs, reward, stepped & block.ended, fault)

    def snapshot(self) -> np.ndarray:
        """Returns states (M, 3): index of the recording, row, steps taken.

        The environment keeps the recording, from which `render` replays the episode.

        Raises:
            NoPictures: The plug-in cannot be rendered.
            RuntimeError: There was no reset.
        """
        if self._facts is not None and self._facts.why_no_pictures:
            raise NoPictures(f"{self._name} draws no pictures: {self._facts.why_no_pictures}")
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
        """Replays the episode of snapshots (L, 3): L frames (height, width, 3) uint8.

        Raises:
            NoPictures: Rendering failed, or the replay gave other rewards than were recorded.
        """
        del task  # the recording has it
        index, row = (int(value) for value in states[0, :2])
        steps = states[:, 2].astype(int).tolist()
        try:
            worker = self._start()
            try:
                yield from render_frames(
                    self._name, worker, self._films[index], row, steps, (width, height)
                )
            finally:
                worker.kill()
        except (Failed, Died) as error:
            raise NoPictures(f"{self._name} cannot be filmed: {error}") from error

    def task_words(self, task: np.ndarray) -> str:
        """Describes a task (D,) with the plug-in's `task_words`, or else by its numbers."""
        return self._ask_first("describe", task) or self._describe_numbers(task)

    def _describe_numbers(self, task: np.ndarray) -> str:
        if self._facts is None or self._facts.form is None:
            draw, size, index = (int(number) for number in task)
            return f"number {index} of {size} in draw {draw}"
        return describe_task(self.spec.tasks.variables, task)

    def close(self) -> None:
        """Kills the workers, releases the memory and deletes the recordings."""
        self._resources.release()
        self._films.clear()
        self._tasks = self._episode = None

    @property
    def obs_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest observation (S,), (S,) according to the plug-in's space."""
        assert self._facts is not None
        return self._facts.obs_low, self._facts.obs_high

    def hurry(self) -> None:
        """Waits only briefly for workers until tasks are set; safe in a signal handler."""
        self._patience.is_hurried = True

    def usage(self) -> Usage:
        """Returns what the first worker uses of the machine."""
        return self._ask_first("usage")

    def forgets_its_task_at_reset(self, tasks: np.ndarray) -> bool:
        """Returns whether tasks (N, D) matter only if they are set after the reset."""
        return self._ask_first("loses_task", tasks)

    def draws_again(self, task: np.ndarray) -> bool:
        """Returns whether the draw of a task (D,) gives the same opaque tasks when repeated."""
        opaque = self._facts is not None and self._facts.form is None
        return not opaque or self._ask_first("repeats_draw", int(task[0]), int(task[1]))

    # --- workers -------------------------------------------------------------------------------

    @property
    def _block(self) -> Block:
        assert self._resources.block is not None
        return self._resources.block

    def _start(self) -> Worker:
        return Worker(self.make, self._facts, self._patience, self._output)

    def _start_up_to(self, count: int) -> None:
        """Starts workers until there are `count`."""
        try:
            while len(self._resources.workers) < count:
                self._resources.workers.append(self._start())
        except Failed as error:
            hint = self._hint_at_script("Can't get attribute" in str(error))
            raise PluginFailure(f"{self._name}: {error}{hint}") from error
        except Died as error:
            reason = f"its process died at the start ({error})"
            if error.code == main_module.NO_GUARD:
                reason = "every worker imports the script, which would start workers again"
            hint = self._hint_at_script(True)
            raise PluginFailure(f"{self._name}: {reason}{hint}") from error

    def _hint_at_script(self, is_script_unusable: bool) -> str:
        """Returns the hint for a worker that could not import the script, or ""."""
        if not (is_script_unusable and self._is_in_main):
            return ""
        return "; " + main_module.HINT.format(self._name.rpartition(":")[2])

    def _ask_first(self, verb: str, *arguments: Any) -> Any:
        """Sends the first worker a message that concerns no row; replaces it if it dies."""
        self._start_up_to(1)
        try:
            try:
                return self._resources.workers[0].ask(verb, *arguments)
            except Died as error:
                return self._replace(0, error, verb, lambda: (verb, *arguments))
        except Failed as error:
            self._resources.release()
            self._tasks = self._episode = None
            kind = SilentPlugin if error.is_silent else PluginFailure
            raise kind(f"{self._name}: {verb}: {error}") from error

    def _draw(self, draw: int, num_tasks: int) -> np.ndarray:
        return self._ask_first("sample", draw, num_tasks)

    def _exchange(self, verb: str, shards: Sequence[int] | range) -> None:
        """Sends a message to the workers of some shards and waits; replaces workers that die.

        Raises:
            PluginFailure: A row failed, hangs, or kills every worker.
        """
        failures, dead = [], {}
        for shard in shards:
            try:
                self._resources.workers[shard].send(*self._message(verb, shard))
            except Died as error:
                dead[shard] = error
        for shard in shards:
            if shard in dead:
                continue
            try:
                self._resources.workers[shard].answer()
            except Died as error:
                dead[shard] = error
            except Failed as error:
                failures.append(error)
        for shard, error in dead.items():
            try:
                self._replace(shard, error, verb, partial(self._message, verb, shard))
            except Failed as failure:
                failures.append(failure)
        if failures:
            first = min(failures, key=lambda failure: -1 if failure.row is None else failure.row)
            place = self._place(first.row, verb)
            if verb != "step":  # there is nothing to replay
                self._tasks, self._episode = None if verb == "assign" else self._tasks, None
            kind = SilentPlugin if first.is_silent else PluginFailure
            raise kind(f"{self._name}, {place}: {first}") from first

    def _message(self, verb: str, shard: int) -> tuple[Any, ...]:
        start, stop = self._bounds[shard : shard + 2]
        if verb == "assign":
            assert self._tasks is not None
            return verb, self._block.name, len(self._tasks), start, self._tasks[start:stop]
        if verb == "reset":
            assert self._episode is not None
            return verb, self._episode.seeds[start:stop]
        return (verb,)

    def _replace(
        self, shard: int, error: Died, verb: str, make_message: Callable[[], tuple[Any, ...]]
    ) -> Any:
        """Replaces a dead worker: replays the state of its shard, then sends the message again.

        The message is made anew, because the shared memory gets another name.

        Raises:
            Failed: A row fails, or the new worker dies MAX_STARTS - 1 times.
        """
        workers = self._resources.workers
        for _ in range(MAX_STARTS - 1):
            row = workers[shard].row
            place = self._place(row if self._tasks is not None else None, verb)
            text = f"the process died ({error}); a new one plays its episodes again"
            warn(f"{self._name}, {place}: {text}")
            self.restarts += 1
            workers[shard].kill()
            try:
                workers[shard] = self._start()
                self._renew_block(shard)
                self._replay(verb, shard)
                answer = workers[shard].ask(*make_message())
                if self._resources.block is not None:
                    self._block.unlink()
                return answer
            except Died as again:
                error = again
        raise Failed(row, f"its process died {MAX_STARTS} times ({error})")

    def _renew_block(self, shard: int) -> None:
        """Gives all workers new memory, because a new worker cannot open the one without a name."""
        before = self._resources.block
        if before is None:
            return
        block = self._resources.block = before.copy()
        for number, worker in enumerate(self._resources.workers[: len(self._bounds) - 1]):
            if number != shard:
                with suppress(Died):  # it will be replaced too
                    worker.ask("attach", block.name, block.num_rows)
        before.release()

    def _replay(self, verb: str, shard: int) -> None:
        """Brings a new worker to the state of its shard before a message."""
        worker, episode = self._resources.workers[shard], self._episode
        if verb == "assign" or self._tasks is None:
            return
        worker.ask(*self._message("assign", shard))
        if verb == "reset" or episode is None:
            return
        if verb != "step" and len(episode.rewards) >= self.spec.horizon:
            return  # a reset follows
        worker.ask(*self._message("reset", shard))
        rows = slice(*self._bounds[shard : shard + 2])
        for step in range(len(episode.rewards)):
            self._load(rows, step)
            worker.ask("step")
        differs = (self._block.obs[rows] != self._obs[rows]).any(axis=1)
        if differs.any():
            row = rows.start + int(np.argmax(differs))
            raise Failed(row, "its process died, and the replay gave other observations")
        if verb == "step":
            self._load(rows, -1)

    def _load(self, rows: slice, step: int) -> None:
        """Writes a recorded step into some rows of the shared memory."""
        assert self._episode is not None
        self._block.action[rows] = self._episode.actions[step][rows]
        self._block.stepped[rows] = self._episode.stepped[step][rows]
        self._block.ended[rows] = False

    def _place(self, row: int | None, verb: str) -> str:
        """Names task, episode and step of a row."""
        if row is None or self._tasks is None:
            return verb
        task, episode = divmod(row, self._num_episodes)
        place = f"task {task} ({self._describe_numbers(self._tasks[row])}), episode {episode}"
        if verb == "step" and self._episode is not None:
            return f"{place}, step {len(self._episode.actions) - 1}"
        return f"{place}, {'set_task' if verb == 'assign' else verb}"
