"""Latency of exported policies: `python -m benchmarks.deploy [--json FILE] [--quick]`.

One step of a policy for one robot with onnxruntime on one core, in a plain loop: observation in,
controls and next memory out. Goals for a GRU: 0.2 ms median, 1 ms at the 99.9th percentile. The
process takes the highest priority that the system allows, because other programs on the core are
part of such percentiles.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.side_by_side import describe, machine, parser, table, write_json
from metarl.core.env import EnvSpec
from metarl.core.tasks import Uniform
from metarl.deployment.export.graph import Graph
from metarl.deployment.export.onnx_graph import to_onnx
from metarl.deployment.export.policies import build_policy
from metarl.deployment.onnx_file import OnnxFile
from metarl.learners.rl2.config import Rl2Config
from metarl.learners.rl2.rl2 import Rl2

GOALS = 0.2, 1.0
"""Median and 99.9th percentile of a GRU's step [ms]."""

POLICIES = {
    "gru": {"memory": "gru"},
    "lstm": {"memory": "lstm"},
    "mingru": {"memory": "mingru"},
    "gru, hypernetwork": {"memory": "gru", "actor": "hypernetwork"},
    "transformer, window of 64": {"memory": "transformer", "attention_window": 64},
    "transformer, trial of 800": {"memory": "transformer"},
}
"""Memories of 128 units for 36 observations and 12 actions, the sizes of quadruped-command."""


@dataclass(frozen=True)
class Latency:
    """Times of single steps [ms].

    Attributes:
        name: Of the policy.
        steps: Timed steps.
        median: Of all steps.
        tail: The 99.9th percentile.
        longest: The longest step.
    """

    name: str
    steps: int
    median: float
    tail: float
    longest: float


def build(name: str) -> Graph:
    """Builds the graph of a new policy."""
    spec = EnvSpec("robot", 1, 36, 12, 200, 0.02, 0.4, Uniform(()), "", {})
    learner = Rl2(Rl2Config(**POLICIES[name]), spec.obs_size, spec.action_size, seed=0)
    return build_policy(learner, spec, max_steps=800).graph


def measure(name: str, steps: int) -> Latency:
    """Times steps of a policy, after as many as fill its memory."""
    graph, times = build(name), np.empty(steps)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.onnx"
        path.write_bytes(to_onnx(graph, {}))
        file = OnnxFile(path)
    states = [each for each in graph.inputs if f"next_{each}" in graph.outputs]
    outputs = ["controls", *(f"next_{each}" for each in states)]
    feeds = {n: np.zeros((1, *port.shape[1:]), np.float32) for n, port in graph.inputs.items()}
    obs = np.random.default_rng(0).standard_normal((1000, 1, 36)).astype(np.float32)
    for t in range(-min(1000, steps), steps):
        feeds["obs"] = obs[t % len(obs)]
        start = time.perf_counter()
        _, *after = file.run(feeds, outputs)
        feeds.update(zip(states, after, strict=True))
        if t >= 0:
            times[t] = 1e3 * (time.perf_counter() - start)
    median, tail = np.percentile(times, [50, 99.9]).tolist()
    return Latency(name, steps, median, tail, float(times.max()))


def take_one_core() -> str:
    """Binds the process to one core, with real-time priority if allowed; returns which."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        return "one core, real-time priority (SCHED_FIFO)"
    with contextlib.suppress(PermissionError):
        os.nice(-20)
        return "one core, nice -20"
    return "one core, normal priority"


def main() -> None:
    """Measures and prints the latencies."""
    options = parser(__doc__).parse_args()
    steps, computer = 1000 if options.quick else 50_000, machine(("onnxruntime", "numpy"))
    priority = take_one_core()
    print(f"{describe(computer)}\n{priority}\n")
    found = [measure(name, steps) for name in POLICIES]
    header = ("one step", "median [ms]", "99.9 % [ms]", "longest [ms]")
    rows = [
        [each.name, *(f"{value:.3f}" for value in (each.median, each.tail, each.longest))]
        for each in found
    ]
    print(table(header, rows))
    print(f"goals for the GRU: median {GOALS[0]} ms, 99.9 % {GOALS[1]} ms")
    results = [asdict(each) for each in found]
    record = {"machine": computer, "priority": priority, "goals": GOALS, "results": results}
    write_json(options.json, record)


if __name__ == "__main__":
    main()
