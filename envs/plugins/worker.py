"""Main function of a worker process: it steps some rows of a batch, one after another.

Each row is a Gymnasium environment of its own. A worker knows no other worker and no learner. It
receives the place of its rows in the shared memory, their tasks and their seeds. Actions come, and
observations and rewards go, through the shared memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from metarl.core.messages import LONGEST, describe_error, printable
from metarl.envs.plugins.interface import (
    Facts,
    draw_tasks,
    read_facts,
    read_optional,
    to_action,
    to_bytes,
)
from metarl.envs.plugins.processes import process
from metarl.envs.plugins.processes.block import Block
from metarl.envs.plugins.processes.usage import Usage, read_usage
from metarl.envs.plugins.values import InvalidPlugin, read_array, read_flag, read_reward

MAX_CACHED_DRAWS = 5
"""Draws of opaque tasks that a worker keeps."""


CLOSE = "close"
"""Message after which a worker closes its environments and exits."""


class RowFailed(Exception):
    """A row broke the contract or raised; `row` is its index in the batch."""

    def __init__(self, row: int, message: str):
        super().__init__(message)
        self.row = row


def _describe(error: BaseException) -> str:
    """Describes an exception of the plug-in in one line."""
    if isinstance(error, InvalidPlugin):
        return printable(error, longest=LONGEST)
    return describe_error(error)


def serve(connection: Any, progress: Any, output: Any, dies_with_parent: bool = False) -> None:
    """Answers messages (verb, arguments) until the other end is closed: the main function.

    Args:
        connection: A `multiprocessing` connection to the process that started this one. Answers are
            ("done", result) or ("failed", row or None, message).
        progress: Two shared integers: the number of calls to rows so far, and the current row.
        output: Takes what the plug-in prints, see `process.prepare`.
        dies_with_parent: The system is to kill this process with the thread that started it.
    """
    process.prepare(output, dies_with_parent=dies_with_parent)
    shard = Shard(progress)
    verbs = shard.verbs()
    while True:
        try:
            verb, arguments = connection.recv()
        except (EOFError, ConnectionError):
            verb, arguments = CLOSE, ()
        except Exception as error:
            # the message cannot be unpickled here: the module of a class was not found, say
            connection.send(("failed", None, _describe(error)))
            continue
        if verb == CLOSE:
            shard.close()
            process.leave()
        try:
            answer = ("done", verbs[verb](*arguments))
        except RowFailed as error:
            answer = ("failed", error.row, str(error))
        except BaseException as error:  # including a KeyboardInterrupt that the plug-in raises
            answer = ("failed", None, _describe(error))
        connection.send(answer)


class Shard:
    """The rows of one worker.

    Args:
        progress: See `serve`.
    """

    def __init__(self, progress: Any):
        self._progress = progress
        self._make: Callable[..., Any] | None = None
        self._envs: list[Any] = []
        self._block: Block | None = None
        self._filmed: Any = None
        self._draws: dict[tuple[int, int], list[Any]] = {}

    def verbs(self) -> dict[str, Callable[..., Any]]:
        """Returns the methods that messages may call, by name, in the order of use."""
        methods = (
            self.begin,
            self.sample,
            self.repeats_draw,
            self.describe,
            self.assign,
            self.reset,
            self.step,
            self.replay,
            self.film,
            self.frame,
            self.loses_task,
            self.usage,
            self.attach,
        )
        return {method.__name__: method for method in methods}

    def begin(self, make: Callable[..., Any], facts: Facts | None) -> Facts:
        """Stores the maker of environments; reads the properties if they are not known yet."""
        self._make = make
        self._facts = facts or read_facts(self._environment(0), self._make)
        return self._facts

    def sample(self, draw: int, size: int) -> np.ndarray:
        """Draws tasks as rows (size, D)."""
        if self._facts.form is None:
            self._draw_opaque(draw, size)
            return np.array([(draw, size, index) for index in range(size)], dtype=float)
        tasks = draw_tasks(self._environment(0), draw, size)
        return np.array([self._facts.form.encode(task) for task in tasks])

    def repeats_draw(self, draw: int, size: int) -> bool:
        """Returns whether a draw gives the same opaque tasks twice, as far as they pickle."""
        env = self._environment(0)
        first, second = (to_bytes(draw_tasks(env, draw, size)) for _ in range(2))
        return first == second

    def describe(self, row: np.ndarray) -> str:
        """Describes a task (D,) with the plug-in's `task_words`; "" if it has none."""
        task_words = read_optional(self._environment(0), "task_words")
        if task_words is None:
            return ""
        return printable(task_words(self._decode(row)), longest=LONGEST)

    def assign(self, name: str, num_rows: int, start: int, tasks: np.ndarray) -> None:
        """Assigns the rows start .. start + n of a block, with tasks (n, D)."""
        if self._block is None or self._block.name != name:
            self.attach(name, num_rows)
        self._start, self._num_rows = start, len(tasks)
        self._steps = [0] * len(tasks)
        for i, task in enumerate(tasks):
            self._assign_row(i, task)

    def attach(self, name: str, num_rows: int) -> None:
        """Opens a block, in place of the one before."""
        if self._block is not None:
            self._block.release()
        sizes = len(self._facts.obs_low), len(self._facts.actions.low)
        self._block = Block(num_rows, *sizes, name=name)

    def reset(self, starts: list[tuple[int, int, np.ndarray | None]]) -> None:
        """Starts an episode in some rows, given as (row of the shard, seed, new task or None)."""
        for i, seed, task in starts:
            if task is not None:
                self._assign_row(i, task)
            self._reset_row(i, seed)

    def step(self) -> None:
        """Steps the rows that the block marks."""
        assert self._block is not None
        for i in range(self._num_rows):
            row = self._start + i
            if self._block.stepped[row]:
                self._step_row(i, self._block.action[row])

    def replay(self, i: int, seed: int, actions: np.ndarray) -> None:
        """Starts an episode in row i of the shard and takes actions (L, A)."""
        self._reset_row(i, seed)
        for action in actions:
            self._step_row(i, action)

    def film(self, task: np.ndarray, seed: int) -> None:
        """Starts an episode in an environment that renders."""
        assert self._make is not None
        if self._filmed is not None:
            self._filmed.close()
        self._filmed = self._make(render_mode="rgb_array")
        self._set_task(self._filmed, task)
        self._filmed.reset(seed=seed)

    def frame(self, actions: np.ndarray) -> tuple[np.ndarray, list[float]]:
        """Takes actions (L, A); returns a picture (height, width, 3) and the L rewards."""
        rewards = [float(self._filmed.step(self._to_action(action))[1]) for action in actions]
        return np.asarray(self._filmed.render()), rewards

    def loses_task(self, tasks: np.ndarray) -> bool:
        """Returns whether tasks (N, D) set after a reset change the next reward or observation."""
        env, outcomes = self._environment(0), set()
        action = env.action_space.sample()
        for row in tasks:
            env.reset(seed=0)
            self._set_task(env, row)
            obs, reward, *_ = env.step(action)
            outcomes.add((np.asarray(obs, dtype=float).tobytes(), float(reward)))
        return len(outcomes) > 1

    def usage(self) -> Usage:
        """Returns what this process uses of the machine."""
        return read_usage()

    def close(self) -> None:
        """Closes every environment, so that simulators of their own end too."""
        for env in [*self._envs, *([self._filmed] if self._filmed else [])]:
            try:
                env.close()
            except Exception as error:
                print(f"close raised {_describe(error)}", file=sys.stderr)

    # --- one row -------------------------------------------------------------------------------

    def _run(self, i: int, method: str, work: Callable[[], None]) -> None:
        """Calls `work` for row i and records the progress, which the parent process reads."""
        row = self._start + i
        self._progress[1] = row
        try:
            work()
        except BaseException as error:
            prefix = "" if isinstance(error, InvalidPlugin) else f"{method} raised "
            raise RowFailed(row, prefix + _describe(error)) from error
        self._progress[0] += 1

    def _assign_row(self, i: int, task: np.ndarray) -> None:
        self._run(i, "set_task", lambda: self._set_task(self._environment(i), task))

    def _reset_row(self, i: int, seed: int) -> None:
        self._run(i, "reset", lambda: self._reset(i, seed))

    def _step_row(self, i: int, action: np.ndarray) -> None:
        self._run(i, "step", lambda: self._step(i, action))

    def _environment(self, i: int) -> Any:
        assert self._make is not None
        while len(self._envs) <= i:
            self._envs.append(self._make())
            process.ignore_interrupts()  # again: some robot libraries install a handler
            if "mujoco" in sys.modules:
                from metarl.envs.locomotion import profiler  # imports MuJoCo

                profiler.stop()
        return self._envs[i]

    def _draw_opaque(self, draw: int, size: int) -> list[Any]:
        if (draw, size) not in self._draws:
            if len(self._draws) >= MAX_CACHED_DRAWS:
                self._draws.clear()
            self._draws[draw, size] = draw_tasks(self._environment(0), draw, size)
        return self._draws[draw, size]

    def _decode(self, row: np.ndarray) -> Any:
        if self._facts.form is not None:
            return self._facts.form.decode(row)
        draw, size, index = (int(number) for number in row)
        return self._draw_opaque(draw, size)[index]

    def _set_task(self, env: Any, row: np.ndarray) -> None:
        env.get_wrapper_attr("set_task")(self._decode(row))

    def _reset(self, i: int, seed: int) -> None:
        self._steps[i] = 0
        answer = self._environment(i).reset(seed=seed)
        if not (isinstance(answer, tuple) and len(answer) == 2):
            raise InvalidPlugin(f"reset must return (observation, info), not {answer!r:.80}")
        self._store_obs(i, answer[0])

    def _step(self, i: int, action: np.ndarray) -> None:
        assert self._block is not None
        row = self._start + i
        self._steps[i] += 1
        answer = self._environment(i).step(self._to_action(action))
        if not (isinstance(answer, tuple) and len(answer) == 5):
            raise InvalidPlugin(
                "step must return (observation, reward, terminated, truncated, info), "
                f"not {answer!r:.80}"
            )
        obs, reward, terminated, truncated, _ = answer
        self._store_obs(i, obs)
        self._block.reward[row] = read_reward(reward)
        # the horizon is part of the task: reaching it is not an end
        is_cut = read_flag("truncated", truncated) and self._steps[i] < self._facts.horizon
        self._block.ended[row] = read_flag("terminated", terminated) or is_cut

    def _to_action(self, action: np.ndarray) -> Any:
        return to_action(self._environment(0).action_space, action)

    def _store_obs(self, i: int, obs: Any) -> None:
        assert self._block is not None
        self._block.obs[self._start + i] = read_array(obs, (len(self._facts.obs_low),))
