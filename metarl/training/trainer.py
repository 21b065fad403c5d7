"""The outer loop: sample tasks, run a trial, update; and everything that makes it survive."""

from __future__ import annotations

import signal
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metarl.config.schema import TrainConfig
from metarl.core.env import BatchEnv, supports
from metarl.core.errors import (
    CheckpointError,
    MetarlError,
    Preempted,
    ResourceError,
    interrupt,
    naming_failures,
)
from metarl.core.learner import HasOwnLoop, Learner
from metarl.core.parallel import one_torch_thread
from metarl.core.rng import stream
from metarl.core.rollout import Iteration
from metarl.runs import checkpoint
from metarl.runs.logger import RunLog
from metarl.sampling.sampler import Collector, Key


@dataclass
class Progress:
    """Where a run stands between two iterations.

    Attributes:
        iteration: Iterations done.
        env_steps: Environment steps taken.
        seconds: Wall-clock time spent, over all restarts [s].
    """

    iteration: int = 0
    env_steps: int = 0
    seconds: float = 0.0


def restore(learner: Learner[Any], saved: checkpoint.Checkpoint) -> Progress:
    """Brings a learner to where a checkpoint was made and says where that is.

    Raises:
        CheckpointError: The checkpoint is of another learner or network; the learner is as it was.
    """
    try:
        progress = Progress(**saved.state)
        learner.load_state_dict(saved.tensors)
    except (TypeError, ValueError) as error:
        cure = "it is of another learner, environment or network"
        raise CheckpointError(
            f"the checkpoint of iteration {saved.step} does not fit ({error}): {cure}"
        ) from error
    return progress


class Trainer:
    """Trains a learner on an environment's tasks.

    Args:
        env: The environment.
        learner: The learner.
        distribution: Where training tasks come from; anything with sample(rng, n) -> (n, D).
        config: The run's settings.
        run_dir: The run folder, which exists.
        log: Where metrics go.
        progress: Where the learner stands; by default at the start.
    """

    def __init__(
        self,
        env: BatchEnv,
        learner: Learner[Any],
        distribution: Any,
        config: TrainConfig[Any],
        run_dir: Path,
        log: RunLog,
        progress: Progress | None = None,
    ):
        self.env, self.learner, self.distribution = env, learner, distribution
        self.config, self.log = config, log
        self._collector = Collector(env)
        self.checkpoints = run_dir / "checkpoints"
        self.progress = progress or Progress()
        self._saved = progress.iteration if progress else None
        self._stop: str | None = None

    def run(self) -> None:
        """Trains until config.iterations are done.

        Raises:
            Preempted: SIGINT or SIGTERM arrived; the iteration was finished and saved.
            KeyboardInterrupt: It arrived twice; the last checkpoint stands.
            NumericalError: An update met a number that is not finite; the state before it was saved.
            EnvironmentContractError: A task had no valid step, or a number that is not finite was called
                no fault; the state before it was saved.
        """
        started = last_save = time.monotonic()
        before = self.progress.seconds
        # baselines and sums in the main thread depend on torch's number of threads, results must not
        with self._signals(), one_torch_thread(), closing(self._collector):
            self.save()  # a run that is killed in its first minutes can be resumed too
            for iteration in range(self.progress.iteration, self.config.iterations):
                with self._saving_on_failure(), naming_failures(f"iteration {iteration + 1}"):
                    done = self._iterate(iteration)
                ended = time.monotonic()
                self.progress = Progress(
                    iteration + 1, self.progress.env_steps + done.steps, before + ended - started
                )
                with self._saving_on_failure():
                    self.log.write(self._record(iteration, done))
                if ended - last_save >= 60.0 * self.config.trainer.checkpoint_minutes:
                    self.save()
                    last_save = ended
                if self._stop:
                    break
            self.save()
        if self._stop:  # also one that came while the last checkpoint was written
            raise Preempted(f"stopped by {self._stop} after iteration {self.progress.iteration}")

    def _iterate(self, iteration: int) -> Iteration:
        """Collects and learns: by trials, unless the learner brings a loop of its own, as baselines do."""
        if supports(self.learner, HasOwnLoop):
            return self.learner.iterate(iteration)
        return self._meta_iterate(iteration)

    def _meta_iterate(self, iteration: int) -> Iteration:
        sampler, seed = self.config.sampler, self.config.seed
        began = time.monotonic()
        tasks = self.distribution.sample(stream(seed, "tasks", iteration), sampler.num_tasks)
        rollouts, context = self._collector.trial(
            self.learner,
            tasks,
            sampler.num_episodes,
            sampler.num_adaptations,
            Key(seed, "train", iteration),
        )
        collected = time.monotonic()
        metrics = self.learner.update(context, rollouts, tasks)
        last = rollouts[-1]
        return Iteration(
            steps=sum(rollout.num_steps() for rollout in rollouts),
            returns=[float(rollout.returns().mean()) for rollout in rollouts],
            length=float(last.valid.sum(dim=2).double().mean()),
            terminated=float(last.terminated.double().mean()),
            faults=float(sum(rollout.truncated.sum() for rollout in rollouts)),
            metrics=metrics,
            collect=collected - began,
            update=time.monotonic() - collected,
        )

    def save(self) -> None:
        """Writes a checkpoint of the state between two iterations, unless it is there already."""
        if self._saved == self.progress.iteration:
            return
        self.log.sync()
        checkpoint.save(
            self.checkpoints,
            self.progress.iteration,
            self.learner.state_dict(),
            vars(self.progress),
            keep=self.config.trainer.keep_checkpoints,
        )
        self._saved = self.progress.iteration

    @contextmanager
    def _saving_on_failure(self) -> Generator[None]:
        """Saves the state before what failed; a learner changes nothing until its update succeeds."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            self.save()
            cure = "take --device cpu, or fewer --sampler.num-tasks in a new run"
            raise ResourceError(f"no GPU memory left, the state is saved; {cure}") from error
        except MetarlError as error:
            self.save()
            raise type(error)(f"{error}; the state before it is saved") from error
        except Exception:
            self.save()
            raise

    @contextmanager
    def _signals(self) -> Generator[None]:
        """The first SIGINT or SIGTERM stops after the iteration; a second one stops at once."""

        def note(number: int, frame: object) -> None:
            if self._stop:
                interrupt(number, frame)
            self._stop = signal.Signals(number).name
            words = f"metarl: {self._stop}: stopping after this iteration; once more stops at once"
            self.log.notify(words)

        numbers = (signal.SIGINT, signal.SIGTERM)
        handlers = [signal.signal(number, note) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, handlers, strict=True):
                signal.signal(number, handler)

    def _record(self, iteration: int, done: Iteration) -> dict[str, Any]:
        return {
            "iteration": iteration + 1,
            "env_steps": self.progress.env_steps,
            "seconds": self.progress.seconds,
            "steps_per_second": done.steps / (done.collect + done.update),
            "time/collect": done.collect,
            "time/update": done.update,
            "return_pre": done.returns[0],
            "return_post": done.returns[-1],
            **{f"return/{k}": value for k, value in enumerate(done.returns)},
            "rollout/length": done.length,
            "rollout/terminated": done.terminated,
            "rollout/faults": done.faults,
            **done.metrics,
        }


def pick_device(name: str) -> torch.device:
    """Finds the device of the update.

    Args:
        name: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".

    Returns:
        The device.

    Raises:
        ResourceError: A GPU was asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ResourceError(
            f"--device {name}: torch {torch.__version__} sees {torch.cuda.device_count()} GPUs; "
            "use --device cpu, or install a CUDA build of torch"
        )
    return device
