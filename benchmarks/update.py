"""One meta-update of MAML-TRPO: `python -m benchmarks.update [--json FILE] [--quick]`.

40 tasks x 4,000 + 4,000 states of an Ant, including adaptation, baseline and line search, against
the obvious way (`benchmarks/obvious.py`) with the same network, data, conjugate-gradient steps,
line-search rule and threads. Both must first give the same meta-gradient and the same curvature
product in double precision. Where there is a GPU, both ways there too; with --gpu only those and
ours on the CPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.obvious import ObviousMaml, policy
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
from metarl.core.rollout import Metrics, Params, Rollout
from metarl.learners.maml import outer_trpo
from metarl.learners.maml.config import MamlConfig
from metarl.learners.maml.maml import Maml, MamlContext
from metarl.learners.maml.outer_trpo import TrpoStep

THREADS = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Sizes:
    """Sizes of the problem.

    Attributes:
        tasks: N.
        episodes: E.
        steps: T.
        obs: S.
        actions: A.
        rounds: Timed rounds.
    """

    tasks: int = 40
    episodes: int = 20
    steps: int = 200
    obs: int = 27
    actions: int = 8
    rounds: int = 5


QUICK = Sizes(tasks=4, episodes=5, steps=40, rounds=2)
SMALL = Sizes(tasks=3, episodes=4, steps=10, obs=5, actions=2)


def synthetic(learner: Maml, context: MamlContext, sizes: Sizes, seed: int) -> Rollout:
    """Returns a rollout of the learner's own policy on random states, with a reward of both."""
    generator = torch.Generator().manual_seed(seed)
    dtype = learner.params["bias0"].dtype
    shape = (sizes.tasks, sizes.episodes, sizes.steps)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=dtype)

    obs, noise = normal(*shape, sizes.obs), normal(*shape, sizes.actions)
    with torch.inference_mode():
        sample, _ = learner.act(context, obs.flatten(1, 2), noise.flatten(1, 2), explore=True)
    action, log_prob = sample.value.clone().view_as(noise), sample.log_prob.clone().view(shape)
    goal = normal(sizes.tasks, 1, 1, sizes.actions)
    reward = (action * goal).mean(dim=-1) * obs[..., 0].cos() + 0.1 * normal(*shape)
    ended = torch.zeros(shape[:2], dtype=torch.bool)
    valid = torch.ones(shape, dtype=torch.bool)
    return Rollout(obs, action, log_prob, reward, valid, ended, ended.clone(), obs[:, :, -1])


def build(
    sizes: Sizes, fraction: float, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Maml:
    """Builds the learner; its parameters depend on the sizes only."""
    config = MamlConfig(curvature_fraction=fraction)
    learner = Maml(config, sizes.obs, sizes.actions, seed=0, device=device, num_threads=THREADS)
    learner.params = {n: v.to(dtype) for n, v in learner.params.items()}
    return learner


@dataclass(frozen=True)
class Trial:
    """Parameters and the two rollouts of a trial."""

    params: Params
    first: Rollout
    second: Rollout

    @staticmethod
    def of(sizes: Sizes, dtype: torch.dtype = torch.float32) -> Trial:
        learner = build(sizes, 1.0, dtype=dtype)
        context = learner.begin(sizes.tasks, sizes.episodes, ())
        first = synthetic(learner, context, sizes, seed=1)
        second = synthetic(learner, learner.adapt(context, first, ()), sizes, seed=2)
        return Trial(learner.params, first, second)


def ours(learner: Maml, trial: Trial) -> Metrics:
    """Adapts and updates our learner, always from the same parameters."""
    learner.params = {n: v.to(learner.device) for n, v in trial.params.items()}
    context = learner.adapt(learner.begin(*trial.first.valid.shape[:2], ()), trial.first, ())
    return learner.update(context, [trial.first, trial.second], None)


def obvious(
    trial: Trial, threads: int = THREADS, device: torch.device | str = "cpu"
) -> tuple[float, float]:
    """Does the same the obvious way, with threads of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        # on a GPU both ways fit the baseline alike
        fitting = 1 if device == "cpu" else threads
        reference = ObviousMaml(MamlConfig(), trial.params, device, fitting)
        return reference.update(*reference.adapt(trial.first), trial.second)
    finally:
        torch.set_num_threads(before)


PIECES = {
    "gradient": (outer_trpo, "meta_gradient", outer_trpo.meta_gradient),
    "curvature": (TrpoStep, "curvature", TrpoStep.curvature),
    "line search": (TrpoStep, "_search", TrpoStep._search),
}
"""Pieces of the outer step: where they are, and as they are without a probe."""


class Probe:
    """Wraps the pieces of an update, to record their times and results; the last one counts."""

    def __init__(self, learner: Maml):
        self.seconds: dict[str, float] = defaultdict(float)
        self.results: dict[str, Any] = {}
        self._is_on_gpu = learner.device.type == "cuda"
        for method, label in (
            ("adapt", "adapt"),
            ("_batch", "baseline"),
        ):
            setattr(learner, method, self._time(label, getattr(learner, method)))
        for label, (owner, name, piece) in PIECES.items():
            setattr(owner, name, self._time(label, piece))

    def _time(self, label: str, function: Callable) -> Callable:
        def timed(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            value = function(*args, **options)
            if self._is_on_gpu:
                torch.cuda.synchronize()
            self.seconds[label] += time.perf_counter() - start
            self.results[label] = value
            # the curvature is a function, called in every conjugate-gradient step
            return self._time(f"{label} product", value) if callable(value) else value

        return timed

    def breakdown(self) -> dict[str, float]:
        """Returns seconds of each part; baseline fits, half of them in adapt, count separately."""
        parts = dict(self.seconds)
        parts["curvature"] += parts.pop("curvature product")
        parts["adapt"] -= parts["baseline"] / 2
        return parts


def largest_difference(a: Tensor, b: Tensor) -> float:
    """Returns the largest difference, relative to the largest entry of b."""
    return float((a - b).abs().max() / b.abs().max())


def reference_products(trial: Trial, vector: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the meta-gradient and the curvature product of the obvious way."""
    reference = ObviousMaml(MamlConfig(), trial.params)
    before, points = reference.adapt(trial.first)
    after, _ = reference.adapt(trial.second)
    old = [policy(p, sample.obs) for p, sample in zip(points, after, strict=True)]
    gain, _ = reference.objective(reference.params, before, after, old, graph=True)
    return reference.flat_gradient(gain), reference.curvature(before, after, old)(vector)


def compare() -> dict[str, float]:
    """Returns the relative differences of both ways on a small trial in double precision."""
    trial = Trial.of(SMALL, torch.float64)
    learner = build(SMALL, 1.0, dtype=torch.float64)
    probe = Probe(learner)
    metrics = ours(learner, trial)
    size = sum(value.numel() for value in trial.params.values())
    vector = torch.linspace(-1.0, 1.0, size, dtype=torch.float64)
    gradient, product = reference_products(trial, vector)
    _, kl = obvious(trial)
    return {
        "gradient": largest_difference(probe.results["gradient"], gradient),
        "curvature product": largest_difference(probe.results["curvature"](vector), product),
        "KL of the step": abs(metrics["kl"] - kl) / kl,
    }


def memory_of(contender: str, sizes: Sizes) -> float:
    """Measures the peak memory of one update above that before it [MB], in a new process."""
    command = [sys.executable, "-m", "benchmarks.update", "--memory-of", contender]
    if sizes is QUICK:
        command.append("--quick")
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_memory(contender: str, sizes: Sizes) -> None:
    """Prints the number for `memory_of`, in its child process."""
    trial = Trial.of(sizes)
    before = resident()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    run_once(contender, trial, sizes)()
    print(peak_resident() - before)


def run_once(contender: str, trial: Trial, sizes: Sizes) -> Callable[[], float]:
    """Returns an update of one contender, for take_turns."""
    if contender == "obvious GPU":
        return lambda: float(len(obvious(trial, device="cuda")) > 0)
    if contender.startswith("obvious"):
        threads = 1 if contender == "obvious 1" else THREADS
        return lambda: float(len(obvious(trial, threads)) > 0)
    fraction = 1.0 if contender.startswith("all") else MamlConfig().curvature_fraction
    learner = build(sizes, fraction, device="cuda" if contender.endswith("GPU") else "cpu")
    return lambda: float(len(ours(learner, trial)) > 0)


def breakdown(trial: Trial, sizes: Sizes, fraction: float, device: str = "cpu") -> dict[str, float]:
    """Returns median seconds of the parts of our update."""
    learner, found = build(sizes, fraction, device=device), []
    for _ in range(sizes.rounds):
        probe = Probe(learner)
        start = time.perf_counter()
        ours(learner, trial)
        found.append({**probe.breakdown(), "total": time.perf_counter() - start})
        learner = build(sizes, fraction, device=device)
    return {part: sorted(f[part] for f in found)[len(found) // 2] for part in found[0]}


GPU_LIMIT = 25.0
"""Time after which no further round begins on a GPU [s]."""

CONTENDERS = {
    "default": "ours, curvature on 1/4 of the states",
    "all": "ours, curvature on all states",
    "obvious": "the obvious way",
    "obvious 1": "the obvious way on one thread",
}
ON_GPU = {
    "default GPU": "GPU: ours, curvature on 1/4 of the states",
    "all GPU": "GPU: ours, curvature on all states",
    "obvious GPU": "GPU: the obvious way",
}
"""Contenders where there is a GPU; a round includes the transfers."""


def measure_on_gpu(trial: Trial, sizes: Sizes) -> dict[str, Any]:
    """Measures the contenders on a GPU beside ours on the CPU; nothing without a GPU."""
    if not torch.cuda.is_available():
        return {}
    runs = {name: run_once(name, trial, sizes) for name in ("default", *ON_GPU)}
    peaks = {name: gpu_peak(runs[name]) for name in ON_GPU}
    timings = take_turns(runs, sizes.rounds, GPU_LIMIT)
    ours, reference = timings["default GPU"], timings["obvious GPU"]
    ratios = [
        Ratio.of("GPU: ours / the obvious way", ours, reference, target=30.0),
        Ratio.of("GPU: ours on all states / the obvious way", timings["all GPU"], reference),
        Ratio.of("ours: GPU / CPU", ours, timings["default"]),
    ]
    return {
        "timings": {name: timing.record() for name, timing in timings.items()},
        "ratios": [asdict(ratio) for ratio in ratios],
        "gpu_memory_mb": peaks,
        "breakdown": breakdown(trial, sizes, MamlConfig().curvature_fraction, "cuda"),
    }


def measure(sizes: Sizes) -> dict[str, Any]:
    """Measures the contenders on the CPU, as one record."""
    differences = compare()
    trial = Trial.of(sizes)
    runs = {name: run_once(name, trial, sizes) for name in CONTENDERS}
    timings = take_turns(runs, sizes.rounds)
    # threads of torch help small matrices little, and slow them down beside other programs
    reference = min(timings["obvious"], timings["obvious 1"], key=lambda timing: timing.median)
    ratios = [
        Ratio.of("ours / the obvious way", timings["default"], reference, target=4.0),
        Ratio.of("ours on all states / the obvious way", timings["all"], reference, target=1.3),
    ]
    fraction = MamlConfig().curvature_fraction
    return {
        "agreement": differences,
        "timings": {name: timing.record() for name, timing in timings.items()},
        "ratios": [asdict(ratio) for ratio in ratios],
        "memory_mb": {
            name: memory_of(name, sizes)  # in a process of its own, which takes seconds to start
            for name in (["default"] if sizes is QUICK else CONTENDERS)
        },
        "breakdown": breakdown(trial, sizes, fraction),
        "breakdown_all": breakdown(trial, sizes, 1.0),
    }


def show(found: dict[str, Any], sizes: Sizes) -> None:
    """Prints the results."""
    print("\nlargest relative difference in double precision:", end=" ")
    print(", ".join(f"{name} {value:.1e}" for name, value in found["agreement"].items()))
    states = sizes.episodes * sizes.steps
    print(
        f"\none update, {sizes.tasks} tasks x {states:,} + {states:,} states, {THREADS} threads\n"
    )
    rows = []
    for key, name in CONTENDERS.items():
        timing = found["timings"][key]
        spread = f"{min(timing['seconds']):.2f} .. {max(timing['seconds']):.2f}"
        memory = f"{found['memory_mb'][key]:.0f}" if key in found["memory_mb"] else "-"
        rows.append([name, f"{timing['median']:.2f}", spread, memory])
    print(table(("", "seconds", "spread", "peak memory above baseline [MB]"), rows), "\n")
    print(table(RATIO_HEADER, [Ratio(**ratio).row() for ratio in found["ratios"]]), "\n")
    parts, whole = found["breakdown"], found["breakdown_all"]
    rows = [[part, f"{parts[part]:.3f}", f"{whole[part]:.3f}"] for part in parts]
    print(table(("ours, seconds", "1/4 of the states", "all states"), rows))


def show_gpu(found: dict[str, Any]) -> None:
    """Prints the results of `measure_on_gpu`."""
    names, rows = {"default": "CPU: ours", **ON_GPU}, []
    for key, timing in found["timings"].items():
        memory = f"{found['gpu_memory_mb'][key]:.0f}" if key in ON_GPU else "-"
        rows.append([names[key], f"{timing['median']:.4f}", memory])
    print("\n" + table(("", "seconds", "peak GPU memory [MB]"), rows), "\n")
    print(table(RATIO_HEADER, [Ratio(**ratio).row() for ratio in found["ratios"]]), "\n")
    rows = [[part, f"{seconds:.4f}"] for part, seconds in found["breakdown"].items()]
    print(table(("GPU: ours", "seconds"), rows))


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--memory-of", choices=CONTENDERS, help="(for the benchmark itself)")
    options.add_argument("--gpu", action="store_true", help="only the GPU and ours on the CPU")
    chosen = options.parse_args(arguments)
    keep_freed_memory()  # as a training does
    if chosen.gpu and not torch.cuda.is_available():
        options.error("--gpu: torch sees no GPU here")
    sizes = QUICK if chosen.quick else Sizes()
    if chosen.memory_of:
        measure_memory(chosen.memory_of, sizes)
        return
    about = machine(("torch", "numpy"))
    print(describe(about))
    found: dict[str, Any] = {} if chosen.gpu else measure(sizes)
    if found:
        show(found, sizes)
    on_gpu = measure_on_gpu(Trial.of(sizes), sizes)
    if on_gpu:
        found["gpu"] = on_gpu
        show_gpu(on_gpu)
    write_json(chosen.json, {"machine": about, "sizes": asdict(sizes), **found})


if __name__ == "__main__":
    main()
