"""Small trainings with every learner, and what they leave on the disk."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from metarl.config.parser import flag
from metarl.core.errors import MetarlError
from metarl.learners.registry import ALGORITHMS
from metarl.runs import checkpoint, logger
from metarl.runs.folder import newest_step
from torture.processes import Outcome, call
from torture.records import Break

ITERATIONS = 5
_SMALL = {"hidden_sizes": "8", "hidden_size": "8", "memory_size": "8", "teacher_updates": "1"}
_SMALL |= {"epochs": "2", "minibatches": "2"}
"""Settings of a learner that make it small, if it has them."""

QUIET = "--trainer.evaluate-tasks 0 --trainer.no-video --trainer.no-tensorboard".split()


def learner_flags(algo: str) -> list[str]:
    """Returns the flags that make a learner small."""
    known = {field.name for field in fields(ALGORITHMS[algo].config)}
    sizes = {name: value for name, value in _SMALL.items() if name in known}
    return [word for name, value in sizes.items() for word in (flag(f"learner.{name}"), value)]


def command(
    algo: str,
    *more: object,
    env: str = "navigation-2d",
    iterations: int = ITERATIONS,
    minutes: float = 1e-6,
    threads: int = 1,
) -> list[str]:
    """Returns the arguments of `metarl` that train for less than a second, in the folder `run`.

    Args:
        algo: The learner.
        more: More arguments.
        env: The environment.
        iterations: Iterations.
        minutes: Time between checkpoints [min]; by default there is one an iteration.
        threads: Threads, or worker processes of a plug-in.
    """
    sampler = f"--sampler.num-tasks 2 --sampler.num-episodes 2 --sampler.threads {threads}".split()
    sizes = ["--iterations", str(iterations), "--trainer.checkpoint-minutes", str(minutes)]
    words = ["train", "--env", env, "--algo", algo, "--device", "cpu", "--run-dir", "run"]
    rest = [str(each) for each in more]
    return [*words, *sampler, *sizes, *learner_flags(algo), *QUIET, *rest]


@dataclass(frozen=True)
class Result:
    """What two runs that are equal bit for bit have in common.

    Attributes:
        step: Iterations done.
        tensors: SHA-256 of each tensor of the newest checkpoint.
        records: metrics.jsonl without times.
    """

    step: int
    tensors: dict[str, str]
    records: list[dict[str, Any]]

    def find_difference(self, other: Result, since: int = 0) -> str:
        """Returns how another run differs, "" if it is equal after the iteration `since`."""
        if self.step != other.step:
            return f"ends at iteration {other.step}, not {self.step}"
        for name, digest in self.tensors.items():
            if other.tensors.get(name) != digest:
                return f"the tensor {name} differs"
        mine, others = (
            [record for record in each.records if record["iteration"] > since]
            for each in (self, other)
        )
        if len(mine) != len(others):
            return f"{len(others)} records, not {len(mine)}"
        for one, two in zip(mine, others, strict=True):
            if one != two:
                return f"the metrics of iteration {one['iteration']} differ"
        return ""


def read_result(run: Path) -> Result:
    """Reads a run without trust in its newest checkpoint being the last one.

    Raises:
        MetarlError: It cannot be read.
    """
    saved = checkpoint.load_newest(run / "checkpoints", report=lambda line: None)
    digests = {
        name: hashlib.sha256(repr(value.shape).encode() + value.numpy().tobytes()).hexdigest()
        for name, value in saved.tensors.items()
    }
    records = [
        logger.without_time(record) for _, record in logger.read_records(run / "metrics.jsonl")
    ]
    return Result(saved.step, digests, records)


def compare(expected: Result, run: Path, since: int = 0) -> str:
    """Returns how a run on the disk differs from an expected one."""
    try:
        return expected.find_difference(read_result(run), since)
    except (MetarlError, OSError) as error:
        return f"cannot be read: {error}"


def resume(words: Sequence[str], folder: Path, broken: Break = None) -> Outcome:
    """Goes on with a run that was stopped; starts it anew if nothing was trained."""
    if newest_step(folder / "run") is None:
        return call(words, folder, prepare=[broken])
    return call(["train", "--resume", "run", "--trust-env"], folder, prepare=[broken])


def fresh(folder: Path) -> Path:
    """Returns an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
