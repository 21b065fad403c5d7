"""One update of RL^2: `python -m benchmarks.rl2 [--json FILE] [--quick]`.

5 passes over 80,000 steps of half-cheetah-dir (100 tasks x 2 trials x 2 episodes, 8 minibatches)
with every memory, against the obvious way (`benchmarks/obvious_rl2.py`) on the same trials, and
against the time that collecting them takes. Both ways must first give the same gradient. Where
there is a GPU, the same updates there too; with --gpu only those, beside the CPU.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.obvious_rl2 import ObviousGradient
from benchmarks.side_by_side import (
    RATIO_HEADER,
    Ratio,
    describe,
    gpu_peak,
    machine,
    parser,
    peak_resident,
    resident,
    table,
    take_turns,
    write_json,
)
from metarl.core.machine.allocation import keep_freed_memory
from metarl.core.rng import stream
from metarl.envs.registry import make
from metarl.learners.rl2.config import Rl2Config
from metarl.learners.rl2.gradient import Batch
from metarl.learners.rl2.rl2 import Rl2
from metarl.networks.actor_critic import MEMORIES
from metarl.sampling.sampler import Collector, Key
from metarl.sampling.sequences import Sequences

THREADS = len(os.sched_getaffinity(0))
KEY = Key(0, "benchmark", 0)


@dataclass(frozen=True)
class Sizes:
    """Sizes of an iteration.

    Attributes:
        tasks: N.
        episodes: E, trials of a task.
        minibatches: In a pass.
        rounds: Timed rounds.
    """

    tasks: int = 100
    episodes: int = 2
    minibatches: int = 8
    rounds: int = 3


SMALL = Sizes(tasks=10, minibatches=4)
QUICK = Sizes(tasks=2, minibatches=2, rounds=2)

GPU_LIMIT = 6.0
"""Time after which no further round begins with --gpu, for each size and memory [s]."""

TARGETS = {"gru": 3.0, "lstm": 2.0, "transformer": 3.0}
"""Rate of our update over that of the obvious way with the same memory."""


class Problem:
    """A learner with the trials of its own policy.

    Args:
        env: The environment.
        memory: A name of MEMORIES.
        sizes: Sizes of an iteration.
        is_obvious: Take the gradient the obvious way.
        device: Where updates run.
        trial: Rollouts and context of the same policy; collected if None.
    """

    def __init__(
        self,
        env: Any,
        memory: str,
        sizes: Sizes,
        *,
        is_obvious: bool = False,
        device: str = "cpu",
        trial: tuple[Any, Any] | None = None,
    ):
        config = Rl2Config(memory=memory, minibatches=sizes.minibatches)
        size = env.spec.obs_size, env.spec.action_size
        self.learner = Rl2(config, *size, seed=0, device=device, num_threads=THREADS)
        if is_obvious:
            settings = self.learner.policy, config, THREADS
            self.learner._gradient = ObviousGradient(*settings)  # ty: ignore[invalid-assignment]
        self.tasks = stream(0, "benchmark").choice([-1.0, 1.0], (sizes.tasks, 1))
        self.start, self._sizes = self.learner.state_dict(), sizes
        self._collector = Collector(env)  # of its own, because its rollouts are its memory
        self.rollouts, self.context = trial or self._trial()

    def _trial(self) -> tuple[Any, Any]:
        return self._collector.trial(self.learner, self.tasks, self._sizes.episodes, 1, KEY)

    @property
    def steps(self) -> float:
        """Environment steps of the trials."""
        return float(sum(rollout.valid.sum() for rollout in self.rollouts))

    def update(self) -> float:
        """Updates, always from the same parameters; returns the steps learned from."""
        self.learner.load_state_dict(self.start)
        self.learner.update(self.context, self.rollouts, self.tasks)
        return self.steps

    def collect(self) -> float:
        """Collects the same trials again; returns their steps."""
        self.learner.load_state_dict(self.start)
        self._trial()
        return self.steps


def compare(env: Any) -> dict[str, float]:
    """Returns the largest relative difference between both ways' gradients, by memory."""
    found = {}
    for memory in TARGETS:
        problem = Problem(env, memory, QUICK)
        steps = Sequences.of(problem.rollouts)
        batch = Batch.of(steps, problem.learner._inputs(steps))
        batch = replace(batch, advantage=steps.reward, target=steps.reward)
        rows, own = torch.arange(batch.inputs.shape[1]), problem.learner._gradient
        reference = ObviousGradient(problem.learner.policy, problem.learner.config, 1)
        expected = dict(zip(map(id, reference.parameters), reference(batch, rows)[0], strict=True))
        worst = 0.0
        for parameter, gradient in zip(own.parameters, own(batch, rows)[0], strict=True):
            other = expected[id(parameter)]
            worst = max(worst, float((gradient - other).abs().max() / other.abs().max()))
        found[memory] = worst
    return found


def measure(
    env: Any, sizes: Sizes, memories: Sequence[str], *, gpu_limit: float | None = None
) -> dict[str, Any]:
    """Measures one size of an iteration, as one record.

    Args:
        env: The environment.
        sizes: Sizes of the iteration.
        memories: Names of MEMORIES.
        gpu_limit: Measure only the GPU and the CPU, and begin no round after this time [s].
    """
    runs: dict[str, Callable[[], float]] = {}
    peaks: dict[str, float] = {}
    only_gpu = gpu_limit is not None
    for memory in memories:
        ours = Problem(env, memory, sizes)
        shared = ours.rollouts, ours.context
        runs[memory] = ours.update
        if memory != "transformer" and not only_gpu:
            runs[f"{memory}, collecting"] = Problem(env, memory, sizes).collect
        if memory in TARGETS and not only_gpu:
            obvious = Problem(env, memory, sizes, is_obvious=True, trial=shared)
            runs[f"{memory}, obvious"] = obvious.update
        if torch.cuda.is_available():
            on_gpu = Problem(env, memory, sizes, device="cuda", trial=shared).update
            runs[f"{memory}, GPU"], peaks[memory] = on_gpu, gpu_peak(on_gpu)
    timings = take_turns(runs, sizes.rounds, gpu_limit or math.inf)
    pairs = [(f"{memory}: GPU / CPU", f"{memory}, GPU", memory, 10.0) for memory in memories]
    pairs += [
        (f"{memory}: ours / the obvious way", memory, f"{memory}, obvious", target)
        for memory, target in TARGETS.items()
    ]
    pairs.append(("mingru: ours / gru the obvious way", "mingru", "gru, obvious", 6.0))
    for memory, most in (("gru", 1.2), ("mingru", 0.6)):  # the most seconds for one second
        pairs.append(
            (
                f"{memory}: rate of updating / of collecting",
                memory,
                f"{memory}, collecting",
                1 / most,
            )
        )
    ratios = [
        Ratio.of(name, timings[one], timings[other], target=target)
        for name, one, other, target in pairs
        if one in timings and other in timings
    ]
    return {
        "sizes": asdict(sizes),
        "timings": {name: timing.record() for name, timing in timings.items()},
        "ratios": [asdict(ratio) for ratio in ratios],
        "gpu_memory_mb": peaks,
    }


CONTENDERS = ("gru", "gru, obvious", "lstm", "lstm, obvious", "mingru")
"""Updates whose peak memory is measured."""


def memory_of(contender: str, is_quick: bool) -> float:
    """Measures the peak memory of one update above that before it [MB], in a new process."""
    command = [sys.executable, "-m", "benchmarks.rl2", "--memory-of", contender]
    command += ["--quick"] if is_quick else []
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_memory(contender: str, sizes: Sizes) -> None:
    """Prints the number for `memory_of`, in its child process."""
    memory, _, way = contender.partition(", ")
    with closing(make("half-cheetah-dir")) as env:
        problem = Problem(env, memory, sizes, is_obvious=way == "obvious")
        before = resident()
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        problem.update()
        print(peak_resident() - before)


def show(record: dict[str, Any]) -> None:
    """Prints the results of one size."""
    sizes = record["sizes"]
    rows = sizes["tasks"] * sizes["episodes"]
    print(f"\n{rows} trials, {sizes['minibatches']} minibatches, {THREADS} threads\n")
    lines = [
        [name, f"{timing['median']:.2f}", f"{timing['median'] / timing['work'] * 1e6:.1f}"]
        for name, timing in record["timings"].items()
    ]
    print(table(("", "seconds", "us a step"), lines), "\n")
    print(table(RATIO_HEADER, [Ratio(**ratio).row() for ratio in record["ratios"]]))
    for memory, peak in record["gpu_memory_mb"].items():
        print(f"{memory}: peak GPU memory of an update {peak:.0f} MB")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--memory-of", choices=CONTENDERS, help="(for the benchmark itself)")
    options.add_argument("--memories", nargs="+", choices=MEMORIES, default=list(MEMORIES))
    options.add_argument("--gpu", action="store_true", help="only the GPU and the CPU")
    chosen = options.parse_args(arguments)
    keep_freed_memory()  # as a training does
    if chosen.gpu and not torch.cuda.is_available():
        options.error("--gpu: torch sees no GPU here")
    if chosen.memory_of:
        measure_memory(chosen.memory_of, QUICK if chosen.quick else Sizes())
        return
    about = machine(("torch", "numpy", "mujoco"))
    print(describe(about))
    torch.set_num_threads(1)
    results: list[dict[str, Any]] = []
    record = {"machine": about, "agreement": {}, "results": results, "memory_mb": {}}
    with closing(make("half-cheetah-dir")) as env:
        record["agreement"] = differences = compare(env)
        print("\nlargest relative difference of the gradients:", end=" ")
        print(", ".join(f"{name} {value:.1e}" for name, value in differences.items()))
        sizes = (QUICK,) if chosen.quick else (SMALL, Sizes())
        # on a GPU a memory at a time: time may end, and what was measured stays
        groups = [[name] for name in chosen.memories] if chosen.gpu else [chosen.memories]
        limit = GPU_LIMIT if chosen.gpu else None
        for each in sizes:
            for group in groups:
                results.append(measure(env, each, group, gpu_limit=limit))
                show(results[-1])
                write_json(chosen.json, record)
    if not chosen.gpu:
        contenders = CONTENDERS[-1:] if chosen.quick else CONTENDERS  # each needs a process
        peaks = {name: memory_of(name, chosen.quick) for name in contenders}
        print("\npeak memory of an update above that before it [MB]:")
        print(table(("", "MB"), [[name, f"{peak:.0f}"] for name, peak in peaks.items()]))
        record["memory_mb"] = peaks
    write_json(chosen.json, record)


if __name__ == "__main__":
    main()
