"""BatchEnv of Gymnasium environments with `sample_tasks` and `set_task`, in worker processes.

Each row of the batch is an environment of its own; each worker steps one shard of the rows.
Observations, actions and rewards lie in shared memory, and a step costs one short message per
worker. The results do not depend on the number of workers, because the episode of a row is a
function of its task, its seed (drawn from the row's stream) and its actions. For the same reason a
worker that dies is replaced, and the new worker replays the current episodes of its shard, which
may have begun at different steps.

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

from metarl.core.env import NoPictures, Step
from metarl.core.messages import warn
from metarl.core.tasks import describe_task
from metarl.envs.calls import Calls
from metarl.envs.plugins import main_module
from metarl.envs.plugins.batch import Batch
from metarl.envs.plugins.interface import Facts, make_spec
from metarl.envs.plugins.processes.block import Block
from metarl.envs.plugins.processes.output import Output
from metarl.envs.plugins.processes.usage import Usage
from metarl.envs.plugins.recording import Episode, render_frames, take_snapshot
from metarl.envs.plugins.values import PluginFailure, SilentPlugin
from metarl.envs.plugins.worker_pool import Died, Failed, Patience, Resources, Worker, exchange

TIMEOUT = 120.0
"""Maximum time of one step or reset of one row, and of the start of a plug-in [s]."""

MAX_STARTS = 3
"""A shard is given up after its workers died this often at the same step."""


class SubprocEnv:
    """M Gymnasium environments in worker processes.

    Implements `RestartableEnv`, `RenderableEnv`, `TaskDescriber`, `BoundedEnv` and `HasWorkers`.

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
        self._is_in_main = main_module.require_reachable(name, make)
        self._resources = Resources()
        self._finalizer = weakref.finalize(self, self._resources.release)
        self._facts: Facts | None = None
        self._batch: Batch | None = None
        self._films: list[Episode] = []
        self._start_up_to(1)
        self._facts = self._resources.workers[0].facts
        self.spec = make_spec(name, self._facts, self._draw)
        self._calls = Calls(self.spec)

    # --- the contract of BatchEnv --------------------------------------------------------------

    def set_tasks(self, tasks: np.ndarray, num_episodes: int) -> None:
        """Assigns tasks (N, D) to the batch, each to num_episodes neighbouring rows.

        Raises:
            RuntimeError, ValueError: See `Calls`.
            PluginFailure: set_task raised.
        """
        self._patience.is_hurried = False
        rows = self._calls.set_tasks(tasks, num_episodes)
        num_rows, block = len(rows), self._resources.block
        num_shards = min(self._max_workers, num_rows)
        self._start_up_to(num_shards)
        if block is None or block.num_rows != num_rows:
            if block is not None:
                block.release()
            self._resources.block = Block(num_rows, self.spec.obs_size, self.spec.action_size)
        self._batch = Batch(rows, num_episodes, num_shards)
        self._exchange("assign", range(num_shards))
        self._block.unlink()

    def reset(self, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        """Starts M episodes, row m with a seed drawn from the stream rngs[m]; returns obs (M, S).

        Raises:
            RuntimeError, ValueError: See `Calls`.
            PluginFailure: An environment broke the contract.
        """
        if self._batch is None:  # never set, or given up after a failure
            self._calls.num_rows = None
        self._calls.reset(rngs)
        assert self._batch is not None
        self._batch.reset(rngs)
        self._exchange("reset", range(self._batch.num_shards))
        self._obs, self._calls.is_reset = self._block.obs.copy(), True
        return self._obs

    def reset_rows(
        self,
        rows: np.ndarray,
        rngs: Sequence[np.random.Generator],
        tasks: np.ndarray | None = None,
    ) -> np.ndarray:
        """Starts an episode in the m-th row of the mask rows (M,) with a seed from rngs[m].

        With tasks (rows.sum(), D), sets the tasks of those rows first. The other rows keep their
        state. Returns obs (M, S). After a failure tasks must be set anew.

        Raises:
            RuntimeError: No tasks were set, or there was no reset.
            ValueError: The number of streams or of tasks is not that of the rows.
            PluginFailure: An environment broke the contract; names the row.
        """
        batch = self._batch
        tasks = self._calls.reset_rows(rows, rngs, tasks)
        if batch is None or batch.recording is None:
            raise RuntimeError(f"{self._name}: call reset before reset_rows")
        batch.restart(batch.recording, rows, rngs, tasks)
        self._exchange("reset", batch.shards_of(rows))
        self._obs = self._block.obs.copy()
        return self._obs

    def step(self, action: np.ndarray, alive: np.ndarray) -> Step:
        """Steps the rows of the mask alive (M,) with action (M, A) [policy output].

        A non-finite action is a fault.

        Raises:
            RuntimeError, ValueError: See `Calls`.
            PluginFailure: An environment broke the contract; names task, episode and step.
        """
        action, alive = self._calls.step(action, alive)
        batch, facts = self._batch, self._facts
        if batch is None or batch.recording is None or facts is None:
            raise RuntimeError(f"{self._name}: call reset before step")
        fault = alive & ~np.isfinite(action).all(axis=1)
        stepped, actions = alive & ~fault, facts.actions.convert(action)
        self._block.action[:], self._block.stepped[:] = actions, stepped
        self._exchange("step", batch.shards_of(stepped))
        block = self._block
        self._obs = block.obs.copy()
        reward = np.where(stepped, block.reward, 0.0)
        batch.recording.append(actions, reward, stepped)
        return Step(self._obs, reward, stepped & block.ended, fault)

    def snapshot(self) -> np.ndarray:
        """Returns states (M, 2): index of each row's recorded episode, steps taken.

        The environment keeps these episodes, and `render` replays them.

        Raises:
            NoPictures: The plug-in cannot be rendered.
            RuntimeError: There was no reset.
        """
        if self._facts is not None and self._facts.why_no_pictures:
            raise NoPictures(f"{self._name} draws no pictures: {self._facts.why_no_pictures}")
        if self._batch is None or self._batch.recording is None:
            raise RuntimeError(f"{self._name}: call reset before snapshot")
        return take_snapshot(self._batch.recording, self._films)

    def render(
        self, states: np.ndarray, task: np.ndarray, *, width: int, height: int
    ) -> Iterator[np.ndarray]:
        """Replays the episodes of snapshots (L, 2) of a row: L frames (height, width, 3) uint8.

        Raises:
            NoPictures: Rendering failed, or the replay gave other rewards than were recorded.
        """
        del task  # the recording has it
        try:
            worker, size = self._start(), (width, height)
            try:
                yield from render_frames(self._name, worker, self._films, states, size)
            finally:
                Resources([worker]).release()
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
        self._calls.close()
        self._resources.release()
        self._films.clear()
        self._batch = None

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
            self._batch = None
            raise self._describe(error, f": {verb}") from error

    def _draw(self, draw: int, num_tasks: int) -> np.ndarray:
        return self._ask_first("sample", draw, num_tasks)

    def _exchange(self, verb: str, shards: Sequence[int] | range) -> None:
        """Sends a message to the workers of some shards and waits; replaces workers that die.

        Raises:
            PluginFailure: A row failed, hangs, or kills every worker.
        """
        workers = {shard: self._resources.workers[shard] for shard in shards}
        failures, dead = exchange(workers, partial(self._message, verb))
        for shard, error in dead.items():
            try:
                self._replace(shard, error, verb, partial(self._message, verb, shard))
            except Failed as failure:
                failures.append(failure)
        if failures:
            first = min(failures, key=lambda failure: -1 if failure.row is None else failure.row)
            place = self._place(first.row, verb)
            self._forget(verb)
            raise self._describe(first, f", {place}") from first

    def _describe(self, failure: Failed, place: str) -> PluginFailure:
        """Returns the error of the user for a failure; place follows the name."""
        kind = SilentPlugin if failure.is_silent else PluginFailure
        return kind(f"{self._name}{place}: {failure}")

    def _forget(self, verb: str) -> None:
        """Forgets what is unknown after a message that failed: episodes, or tasks too."""
        batch = self._batch
        if batch is None or verb == "step":
            return
        batch.recording = None
        if verb == "assign" or batch.is_task_new:
            self._batch = None

    def _message(self, verb: str, shard: int) -> tuple[Any, ...]:
        assert self._batch is not None
        return self._batch.message(verb, shard, self._block.name)

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
            text = f"the process died ({error}); a new one plays its episodes again"
            warn(f"{self._name}, {self._place(row, verb)}: {text}")
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
        if self._batch is None:  # nothing in it is needed, and set_tasks makes another
            self._resources.block = None
            before.release()
            return
        block = self._resources.block = before.copy()
        for number, worker in enumerate(self._resources.workers[: self._batch.num_shards]):
            if number != shard:
                with suppress(Died):  # it will be replaced too
                    worker.ask("attach", block.name, block.num_rows)
        before.release()

    def _replay(self, verb: str, shard: int) -> None:
        """Brings a new worker to the state of its shard before a message."""
        worker, batch = self._resources.workers[shard], self._batch
        if verb == "assign" or batch is None:
            return
        worker.ask(*self._message("assign", shard))
        for i, episode in batch.replays(verb, shard, self.spec.horizon):
            worker.ask("replay", i, episode.seed, episode.actions())
            row = episode.row
            if (self._block.obs[row] != self._obs[row]).any():
                raise Failed(row, "its process died, and the replay gave other observations")

    def _place(self, row: int | None, verb: str) -> str:
        """Names task, episode and step of a row."""
        if row is None or self._batch is None:
            return verb
        return self._batch.place(row, verb, self._describe_numbers)
