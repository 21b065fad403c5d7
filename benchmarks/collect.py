"""Speed of collecting experience: `python -m benchmarks.collect [--json FILE] [--quick]`.

Compares 400 simulations (20 tasks x 20 episodes) under per-task MAML policies with

    bound           `threads x` the speed of a bare `mj_step` loop on one thread, which replays the
                    control steps of our episodes in C: no policy, observation, reward or noise,
                    and MuJoCo with its default options
    lean loop       the bare loop without MuJoCo's profiler and its search for islands, which our
                    environments switch off
    RL^2            the collector under RL^2's memory policy (a GRU of 128 units)
    bare loops      one bare loop on each thread at the same time: the real limit of these cores
    Async, Subproc  Gymnasium's AsyncVectorEnv and Stable-Baselines3's SubprocVecEnv with a policy
                    of the same size

All take turns in one process, and only ratios of neighbours in time are reported.
"""

from __future__ import annotations

import copy
import os
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from typing import Any

import gymnasium
import mujoco
import numpy as np
import torch
from mujoco.batch import Batch
from stable_baselines3.common.vec_env import SubprocVecEnv

from benchmarks.side_by_side import (
    RATIO_HEADER,
    Ratio,
    Timing,
    describe,
    machine,
    parser,
    table,
    take_turns,
    write_json,
)
from metarl.core.rng import stream
from metarl.core.rollout import Rollout
from metarl.envs.locomotion import profiler
from metarl.envs.locomotion.env import MujocoBatchEnv
from metarl.envs.registry import make
from metarl.envs.robots.included.installed import ROBOTS
from metarl.learners.maml.config import MamlConfig
from metarl.learners.maml.maml import Maml
from metarl.learners.registry import ALGORITHMS, build_learner
from metarl.sampling.sampler import Collector, Key

THREADS = len(os.sched_getaffinity(0))
KEY = Key(0, "benchmark", 0)


@dataclass(frozen=True)
class Workload:
    """One robot to measure.

    Attributes:
        env: Registry name.
        gymnasium_id: The same robot in Gymnasium; "" leaves the vector environments out.
        options: Options of gymnasium.make that give the same observation.
        target: Fraction of the bound that the project aims at.
    """

    env: str
    gymnasium_id: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    target: float = 0.90


WORKLOADS = (
    Workload("ant-dir", "Ant-v5", {"include_cfrc_ext_in_observation": False}, 0.95),
    Workload("half-cheetah-dir", "HalfCheetah-v5"),
    Workload("walker2d-dir"),
    Workload("hopper-vel"),
    Workload("humanoid-dir"),
    Workload("quadruped-dir"),
)
if ROBOTS["go2"].find():  # its model comes from another package (`make robots`)
    WORKLOADS = (*WORKLOADS, Workload("go2-dir"))


@dataclass(frozen=True)
class Sizes:
    """Size of the measurement.

    Attributes:
        tasks: N.
        episodes: E.
        vector_steps: Control steps of each process of a vector environment in a round.
        vector_sizes: Numbers of processes, of which the fastest is measured.
        rounds: Rounds that count.
    """

    tasks: int = 20
    episodes: int = 20
    vector_steps: int = 400
    vector_sizes: tuple[int, ...] = (THREADS, 2 * THREADS, 20)
    rounds: int = 7


QUICK = Sizes(tasks=4, episodes=5, vector_steps=20, vector_sizes=(THREADS,), rounds=2)


class Ours:
    """The collector on the rollout after adaptation, where MAML has parameters for every task."""

    def __init__(self, env: MujocoBatchEnv, sizes: Sizes, algo: str):
        spec, size = env.spec, (sizes.tasks, sizes.episodes)
        algorithm = ALGORITHMS[algo]
        self.learner = build_learner(algorithm, algorithm.config(), spec, seed=0)
        tasks = spec.tasks.sample(stream(0, "tasks"), sizes.tasks)
        self.collector = Collector(env)
        self.collector.set_tasks(tasks, sizes.episodes)
        first, context = self.collector.rollout(self.learner, self.learner.begin(*size, ()), KEY, 0)
        self.context = self.learner.adapt(context, first, ())

    def collect(self) -> Rollout:
        return self.collector.rollout(self.learner, self.context, KEY, 1)[0]

    def round(self) -> int:
        return self.collect().num_steps()


class Bare:
    """A bare `mj_step` loop on one thread that replays the control steps of a rollout in C.

    `Batch.rollout` of one simulation that records nothing sets the controls and calls mj_step; an
    episode of T control steps is one call.

    Args:
        env: The environment with the model to step.
        collected: The rollout to replay.
        lean: Switch off MuJoCo's profiler and its search for islands, as our environments do.
    """

    def __init__(self, env: MujocoBatchEnv, collected: Rollout, *, lean: bool):
        model = copy.copy(env.model)
        if not lean:
            model.opt.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_ISLAND)
        self.batch = Batch(model, 1, 1)
        self.qpos, self.qvel = self.batch.bind("qpos"), self.batch.bind("qvel")
        rngs = KEY.episodes(1, *collected.valid.shape[:2])
        self.starts = [env.robot.initial_state(rng, env.robot.rest()) for rng in rngs]
        centre = np.array(env.spec.action_centre)
        low, high = env.model.actuator_ctrlrange.T - centre
        sent = collected.action.flatten(0, 1).double().numpy() * env.spec.action_scale
        lengths = collected.valid.flatten(0, 1).sum(dim=1).tolist()
        self.skip = env.robot.frame_skip
        self.controls = [
            np.repeat(centre + np.clip(row[:length], low, high), self.skip, axis=0)[None]
            for row, length in zip(sent, lengths, strict=True)
        ]

    def replay(self, rows: range | None = None) -> int:
        """Replays the episodes `rows`, by default all; returns the number of control steps."""
        steps = 0
        for row in rows or range(len(self.starts)):
            self.batch.reset(stage=mujoco.mjtStage.mjSTAGE_NONE)
            self.qpos[0], self.qvel[0] = self.starts[row]
            self.batch.forward()
            steps += self.controls[row].shape[1]
            self.batch.rollout(self.controls[row].shape[1], self.controls[row], record=[])
        return steps // self.skip

    def check(self, ends: np.ndarray) -> None:
        """Checks that the replayed episodes end in the same qpos (M, nq), bit for bit."""
        for row, end in enumerate(ends):
            self.replay(range(row, row + 1))
            if not np.array_equal(self.qpos[0], end):
                raise AssertionError(f"the bare loop does not replay episode {row}")


def with_profiler(run: Callable[[], int]) -> Callable[[], int]:
    """Returns a round with MuJoCo's profiler on, as it is when the package is imported."""

    def round() -> int:
        with profiler.profile():
            return run()

    return round


def run_together(loops: list[Bare]) -> Callable[[], int]:
    """Returns a round of bare loops at the same time, one on each thread, over all episodes."""
    count = len(loops[0].starts)
    slices = [range(i, count, len(loops)) for i in range(len(loops))]

    def run() -> int:
        with ThreadPoolExecutor(len(loops)) as pool:
            return sum(pool.map(Bare.replay, loops, slices))

    return run


class Vector:
    """A vector environment of processes, with one policy of the same size in the loop."""

    def __init__(self, work: Workload, kind: str, processes: int, horizon: int, steps: int):
        def build() -> gymnasium.Env:
            # half_cheetah.xml uses an option that MuJoCo will remove
            mujoco.set_mju_user_warning(lambda message: None)
            return gymnasium.make(work.gymnasium_id, max_episode_steps=horizon, **work.options)

        self.gym, self.processes, self.steps = kind == "async", processes, steps
        builders = [build] * processes
        if self.gym:
            self.envs = gymnasium.vector.AsyncVectorEnv(builders)
        else:
            self.envs = SubprocVecEnv(builders, start_method="fork")
        self.obs = self.envs.reset()[0] if self.gym else self.envs.reset()
        size, actions = self.obs.shape[1], self._space().shape[0]
        self.learner = Maml(MamlConfig(), size, actions, seed=0)
        self.context = self.learner.begin(1, processes, ())
        self.low, self.high = self._space().low, self._space().high

    def _space(self) -> Any:
        return self.envs.single_action_space if self.gym else self.envs.action_space

    def round(self) -> int:
        rng = np.random.default_rng(0)
        with torch.inference_mode():
            for _ in range(self.steps):
                noise = rng.standard_normal((1, self.processes, len(self.low)), dtype=np.float32)
                obs = torch.from_numpy(self.obs.astype(np.float32))[None]
                act = self.learner.act(self.context, obs, torch.from_numpy(noise), explore=True)
                sent = np.clip(act[0].value[0].numpy(), self.low, self.high)
                self.obs = self.envs.step(sent)[0]
        return self.steps * self.processes

    def close(self) -> None:
        self.envs.close()


def best_vector(work: Workload, kind: str, horizon: int, sizes: Sizes) -> Vector:
    """Returns the vector environment with the fastest number of processes, by one round each."""
    rates = {}
    for processes in sizes.vector_sizes:
        with closing(Vector(work, kind, processes, horizon, sizes.vector_steps)) as vector:
            rates[processes] = take_turns({"": vector.round}, 1)[""].rate
    return Vector(work, kind, max(rates, key=rates.__getitem__), horizon, sizes.vector_steps)


def measure_memory(ours: Ours) -> tuple[int, int]:
    """Measures the first rollout; returns the peak memory and the size of its arrays [bytes]."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        collected = ours.collect()
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    returned = sum(array.nbytes for array in vars(collected).values())
    return peak, returned


def measure(work: Workload, sizes: Sizes) -> dict[str, Any]:
    """Measures all contenders on one robot."""
    torch.set_num_threads(1)
    horizon = make(work.env, 1).spec.horizon
    # fork the processes before any thread starts
    kinds = ("async", "subproc") if work.gymnasium_id else ()
    with profiler.profile():
        vectors = {kind: best_vector(work, kind, horizon, sizes) for kind in kinds}
    with ExitStack() as stack:
        env = stack.enter_context(closing(make(work.env, THREADS)))
        ours, rl2 = (Ours(env, sizes, algo) for algo in ("maml-trpo", "rl2"))
        for each in (ours, rl2):
            stack.callback(each.collector.close)
        peak, returned = measure_memory(ours)  # later rollouts use the same memory
        collected = ours.collect()
        loops = [Bare(env, collected, lean=False) for _ in range(THREADS)]
        lean = Bare(env, collected, lean=True)
        for loop in (loops[0], lean):
            loop.check(ours.collector.snapshot())
        contenders = {
            "bare": with_profiler(loops[0].replay),
            "lean": lean.replay,
            "ours": ours.round,
            "rl2": rl2.round,
            "together": with_profiler(run_together(loops)),
        }
        contenders |= {kind: vector.round for kind, vector in vectors.items()}
        timings = take_turns(contenders, sizes.rounds)
    for vector in vectors.values():
        vector.close()
    return {
        "env": work.env,
        "simulations": sizes.tasks * sizes.episodes,
        "steps": {name: timing.work for name, timing in timings.items()},
        "processes": {kind: vector.processes for kind, vector in vectors.items()},
        "timings": {name: timing.record() for name, timing in timings.items()},
        "ratios": [asdict(ratio) for ratio in compare(timings, work.target)],
        "cpu_ratio": timings["ours"].cpu_rate / timings["bare"].cpu_rate,
        "memory": {"peak": peak, "returned": returned, "ratio": peak / returned},
    }


def compare(timings: dict[str, Timing], target: float) -> list[Ratio]:
    """Returns the ratio of ours to each of the others."""
    ours = timings["ours"]
    bound = f"ours / ({THREADS} x bare)"
    ratios = [
        Ratio.of(bound, ours, timings["bare"], times=THREADS, target=target),
        Ratio.of(
            f"RL^2 / ({THREADS} x bare)", timings["rl2"], timings["bare"], times=THREADS, target=0.6
        ),
        Ratio.of(f"ours / {THREADS} bare loops together", ours, timings["together"]),
        Ratio.of(f"ours / ({THREADS} x lean)", ours, timings["lean"], times=THREADS),
    ]
    if "async" in timings:
        ratios.append(Ratio.of("ours / AsyncVectorEnv", ours, timings["async"], target=3.0))
        ratios.append(Ratio.of("ours / SubprocVecEnv", ours, timings["subproc"], target=5.0))
    return ratios


def show(results: dict[str, Any]) -> None:
    """Prints the results of one robot."""
    names = {
        "bare": "bare mj_step loop, 1 thread",
        "lean": "the same without profiler and islands",
        "together": f"{THREADS} bare loops together",
        "ours": f"ours, {results['simulations']} simulations, {THREADS} threads",
        "rl2": "ours under RL^2",
        "async": f"AsyncVectorEnv, {results['processes'].get('async')} processes",
        "subproc": f"SubprocVecEnv, {results['processes'].get('subproc')} processes",
    }
    rows = []
    for key, name in names.items():
        if key not in results["timings"]:
            continue
        timing = results["timings"][key]
        slowest, fastest = (
            timing["work"] / max(timing["seconds"]),
            timing["work"] / min(timing["seconds"]),
        )
        rows.append(
            [
                name,
                f"{timing['work']:,}",
                f"{timing['rate']:,.0f}",
                f"{slowest:,.0f} .. {fastest:,.0f}",
            ]
        )
    print(f"\n{results['env']}\n")
    print(table(("", "steps a round", "steps/s", "spread"), rows), "\n")
    print(table(RATIO_HEADER, [Ratio(**ratio).row() for ratio in results["ratios"]]), "\n")
    print(f"steps per second of processor time, ours / bare: {results['cpu_ratio']:.2f}")
    peak, returned = results["memory"]["peak"] / 1e6, results["memory"]["returned"] / 1e6
    ratio = results["memory"]["ratio"]
    print(f"memory: peak {peak:.1f} MB for {returned:.1f} MB of arrays: {ratio:.2f} (target 1.2)")


def main() -> None:
    options = parser(__doc__, [work.env for work in WORKLOADS]).parse_args()
    sizes = QUICK if options.quick else Sizes()
    computer = machine(("mujoco", "gymnasium", "stable-baselines3", "torch", "numpy"))
    print(describe(computer))
    results = []
    for work in (work for work in WORKLOADS if work.env in options.envs):
        results.append(measure(work, sizes))
        show(results[-1])
    write_json(options.json, {"machine": computer, "sizes": asdict(sizes), "results": results})


if __name__ == "__main__":
    main()
