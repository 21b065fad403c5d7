"""What happens in a worker process: some rows of a batch, each a Gymnasium environment of its own, one after another.

A worker knows no other worker and no learner. It is told where its rows lie in the shared memory, which tasks they have,
from which seeds they start and when to step; all else it finds in the shared memory, and leaves its answers there.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from metarl.envs.plugins.interface import Facts, Refused, draw_tasks, facts_of, found, sent, written


class Block:
    """Arrays of M rows in shared memory.

    Attributes:
        obs: (M, S) float64.
        action: (M, A) float64, as sent.
        reward: (M,) float64.
        ended: (M,) bool, the episode ended in this step.
        stepped: (M,) bool, the row is to be stepped.

    Args:
        num_rows: M.
        obs_size: S.
        action_size: A.
        name: Of the memory that is there already; None makes it.
    """

    def __init__(self, num_rows: int, obs_size: int, action_size: int, name: str | None = None):
        shapes = {
            "obs": ((num_rows, obs_size), float),
            "action": ((num_rows, action_size), float),
            "reward": ((num_rows,), float),
            "ended": ((num_rows,), bool),
            "stepped": ((num_rows,), bool),
        }
        sizes = [int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in shapes.values()]
        fresh = f"metarl-{os.getpid()}-{secrets.token_hex(4)}"  # whoever finds it sees whose it is
        self._memory = SharedMemory(name=name or fresh, create=name is None, size=sum(sizes))
        self.name = self._memory.name
        self.num_rows = num_rows
        offset = 0
        for (key, (shape, kind)), size in zip(shapes.items(), sizes, strict=True):
            setattr(self, key, np.ndarray(shape, kind, self._memory.buf, offset))
            offset += size

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    ended: np.ndarray
    stepped: np.ndarray

    def release(self, *, unlink: bool) -> None:
        """Gives the memory back; it is gone when its maker unlinks it."""
        for key in ("obs", "action", "reward", "ended", "stepped"):
            setattr(self, key, None)  # a view keeps the memory open
        self._memory.close()
        if unlink:
            self._memory.unlink()


class RowFailed(Exception):
    """A row broke the contract or raised; `row` counts from the first row of the batch."""

    def __init__(self, row: int, words: str):
        super().__init__(words)
        self.row = row


def words_of(error: BaseException) -> str:
    """Says an error in one line, with the place of its origin."""
    if isinstance(error, Refused):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text} ({place.filename}, line {place.lineno})"


def serve(connection: Any, progress: Any) -> None:
    """The main function of a worker process: answers messages (verb, arguments) until the other end is closed.

    Args:
        connection: Of `multiprocessing`, to the process that started this one and to no other. Answers are ("done", result)
            or ("failed", row or None, words).
        progress: Two shared integers: how many rows were worked on, and which is now.
    """
    _leave_interrupts_to_the_trainer()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    share = Share(progress)
    while True:
        try:
            verb, arguments = connection.recv()
        except (EOFError, ConnectionError):
            return
        except Exception as error:
            # what was sent is unknown here, as a class of a module that is not found
            connection.send(("failed", None, words_of(error)))
            continue
        try:
            answer = ("done", getattr(share, verb)(*arguments))
        except RowFailed as error:
            answer = ("failed", error.row, str(error))
        except BaseException as error:  # also a KeyboardInterrupt, which is the plug-in's own
            answer = ("failed", None, words_of(error))
        connection.send(answer)


def _leave_interrupts_to_the_trainer() -> None:
    """Ignores Ctrl-C: the trainer hears it too, and finishes its iteration."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_with_parent() -> None:
    """Ends this process with the one that started it, also in the middle of a step that hangs."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class Share:
    """The rows of one worker.

    Args:
        progress: See `serve`.
    """

    def __init__(self, progress: Any):
        self._progress = progress
        self._make: Callable[..., Any] | None = None
        self._envs: list[Any] = []
        self._block: Block | None = None
        self._draws: dict[tuple[int, int], list[Any]] = {}

    # --- the verbs, in the order of use -----------------------------------------------------------------------------

    def begin(self, make: Callable[..., Any], facts: Facts | None) -> Facts:
        """Takes the maker of environments; the first worker finds out what they are like."""
        self._make = make
        self._facts = facts or facts_of(self._environment(0), self._make)
        return self._facts

    def sample(self, draw: int, size: int) -> np.ndarray:
        """Draws tasks as rows (size, D)."""
        if self._facts.form is None:
            self._drawn(draw, size)
            return np.array([(draw, size, index) for index in range(size)], dtype=float)
        tasks = draw_tasks(self._environment(0), draw, size)
        return np.array([self._facts.form.row(task) for task in tasks])

    def draws_again(self, draw: int, size: int) -> bool:
        """Whether the same draw gives the same opaque tasks, as far as they can be written down."""
        env = self._environment(0)
        some, others = (written(draw_tasks(env, draw, size)) for _ in range(2))
        return some == others

    def words(self, row: np.ndarray) -> str:
        """Says a task as the plug-in says it; "" if it does not."""
        say = found(self._environment(0), "task_words")
        return "" if say is None else str(say(self._task(row)))

    def take(self, name: str, num_rows: int, start: int, tasks: np.ndarray) -> None:
        """Takes the rows start .. start + n of a batch, with tasks (n, D)."""
        if self._block is None or self._block.name != name:
            if self._block is not None:
                self._block.release(unlink=False)
            sizes = len(self._facts.obs_low), len(self._facts.action_low)
            self._block = Block(num_rows, *sizes, name=name)
        self._start, self._num_rows = start, len(tasks)
        for i, row in enumerate(tasks):
            self._at(i, "set_task", lambda i=i, row=row: self._set_task(self._environment(i), row))

    def reset(self, seeds: list[int]) -> None:
        """Starts an episode in every row."""
        self._steps = 0
        for i, seed in enumerate(seeds):
            self._at(i, "reset", lambda i=i, seed=seed: self._reset(i, seed))

    def step(self) -> None:
        """Steps the rows that the block says."""
        assert self._block is not None
        self._steps += 1
        for i in range(self._num_rows):
            if self._block.stepped[self._start + i]:
                self._at(i, "step", lambda i=i: self._step(i))

    def film(self, task: np.ndarray, seed: int) -> None:
        """Starts an episode in an environment that draws."""
        assert self._make is not None
        self._filmed = self._make(render_mode="rgb_array")
        self._set_task(self._filmed, task)
        self._filmed.reset(seed=seed)

    def frame(self, actions: np.ndarray) -> tuple[np.ndarray, list[float]]:
        """Takes actions (L, A) and draws: a picture (height, width, 3) and the rewards on the way."""
        rewards = [float(self._filmed.step(self._sent(action))[1]) for action in actions]
        return np.asarray(self._filmed.render()), rewards

    def forgets(self, tasks: np.ndarray) -> bool:
        """Whether tasks (N, D) set after a reset, not before it, change rewards or observations."""
        env, seen = self._environment(0), set()
        action = env.action_space.sample()
        for row in tasks:
            env.reset(seed=0)
            self._set_task(env, row)
            obs, reward, *_ = env.step(action)
            seen.add((np.asarray(obs, dtype=float).tobytes(), float(reward)))
        return len(seen) > 1

    # --- one row ----------------------------------------------------------------------------------------------------

    def _at(self, i: int, verb: str, work: Callable[[], None]) -> None:
        """Works on row i, so that whoever waits knows where this process is."""
        row = self._start + i
        self._progress[1] = row
        try:
            work()
        except BaseException as error:
            said = "" if isinstance(error, Refused) else f"{verb} raised "
            raise RowFailed(row, said + words_of(error)) from error
        self._progress[0] += 1

    def _environment(self, i: int) -> Any:
        assert self._make is not None
        while len(self._envs) <= i:
            self._envs.append(self._make())
            _leave_interrupts_to_the_trainer()  # again: libraries of robots take them
            if "mujoco" in sys.modules:
                from metarl.envs.locomotion import profiler  # whose import is that of MuJoCo

                profiler.stop()
        return self._envs[i]

    def _drawn(self, draw: int, size: int) -> list[Any]:
        if (draw, size) not in self._draws:
            if len(self._draws) > 4:
                self._draws.clear()
            self._draws[draw, size] = draw_tasks(self._environment(0), draw, size)
        return self._draws[draw, size]

    def _task(self, row: np.ndarray) -> Any:
        if self._facts.form is not None:
            return self._facts.form.task(row)
        draw, size, index = (int(number) for number in row)
        return self._drawn(draw, size)[index]

    def _set_task(self, env: Any, row: np.ndarray) -> None:
        env.get_wrapper_attr("set_task")(self._task(row))

    def _reset(self, i: int, seed: int) -> None:
        answer = self._environment(i).reset(seed=seed)
        if not (isinstance(answer, tuple) and len(answer) == 2):
            raise Refused(f"reset must return (observation, info), not {answer!r:.80}")
        self._see(i, answer[0])

    def _step(self, i: int) -> None:
        assert self._block is not None
        row = self._start + i
        answer = self._environment(i).step(self._sent(self._block.action[row]))
        if not (isinstance(answer, tuple) and len(answer) == 5):
            raise Refused(
                "step must return (observation, reward, terminated, truncated, info), "
                f"not {answer!r:.80}"
            )
        obs, reward, terminated, truncated, _ = answer
        self._see(i, obs)
        if np.ndim(reward) or not np.isfinite(reward):
            raise Refused(f"the reward is {reward!r:.80}; it must be one finite number")
        self._block.reward[row] = reward
        # the horizon is part of the task: reaching it is no end
        cut = bool(truncated) and self._steps < self._facts.horizon
        self._block.ended[row] = bool(terminated) or cut

    def _sent(self, action: np.ndarray) -> Any:
        return sent(self._environment(0).action_space, action)

    def _see(self, i: int, obs: Any) -> None:
        assert self._block is not None
        array, wanted = np.asarray(obs), (len(self._facts.obs_low),)
        if array.shape != wanted:
            raise Refused(f"the observation has the shape {array.shape}; the space says {wanted}")
        finite = np.isfinite(array)
        if not finite.all():
            first = int(np.argmin(finite))
            raise Refused(f"obs[{first}] is {array[first]}; observations must be finite")
        self._block.obs[self._start + i] = array
