"""How fast experience is collected: `python -m benchmarks.collect [--json FILE] [--quick]`.

400 simulations (20 tasks x 20 episodes) under per-task MAML policies, against

    the bound      `threads x` the speed of a bare `mj_step` loop on one thread, which replays the very control steps
                   of our episodes in C: no policy, no observation, no reward, no noise; MuJoCo as it comes
    lean loop      that loop without MuJoCo's profiler and its search for islands, which our environments switch off
    RL^2           the collector again, under RL^2's memory policy (a GRU of 128 units)
    bare loops     as many such loops at the same time, one a thread: what these cores can really do together
    Async, Subproc Gymnasium's AsyncVectorEnv and Stable-Baselines3's SubprocVecEnv with a policy of the same size

All take turns in one process, so that only ratios of neighbours in time are reported.
"""

from __future__ import annotations

import copy
import os
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, fields
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
from metarl.learners.maml.config import MamlTrpoConfig
from metarl.learners.maml.maml_trpo import MamlTrpo
from metarl.learners.registry import ALGORITHMS, build_learner
from metarl.sampling.sampler import Collector, Key

THREADS = len(os.sched_getaffinity(0))
KEY = Key(0, "benchmark", 0)


@dataclass(frozen=True)
class Workload:
    """What is measured.

    Attributes:
        env: Registry name.
        gymnasium_id: The same robot as Gymnasium sells it; "" leaves the vector environments out.
        options: Of gymnasium.make: the same observation.
        target: Share of the bound that is asked for.
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
)


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        tasks: N.
        episodes: E.
        vector_steps: Control steps of each process of a vector environment in a round.
        vector_sizes: Numbers of processes to choose the best from.
        rounds: Rounds that count.
    """

    tasks: int = 20
    episodes: int = 20
    vector_steps: int = 400
    vector_sizes: tuple[int, ...] = (THREADS, 2 * THREADS, 20)
    rounds: int = 7


QUICK = Sizes(tasks=4, episodes=5, vector_steps=20, vector_sizes=(THREADS,), rounds=2)


class Ours:
    """The collector on the rollout after adaptation, where MAML has parameters of its own for every task."""

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
    """A bare `mj_step` loop on one thread that replays the control steps of a rollout, without Python in the loop.

    `Batch.rollout` of one simulation that records nothing sets the controls and calls mj_step; an episode of T control
    steps is one call.

    Args:
        env: Whose model is stepped.
        collected: Whose episodes are replayed.
        lean: Switch MuJoCo's profiler and its search for islands off, as our environments do.
    """

    def __init__(self, env: MujocoBatchEnv, collected: Rollout, *, lean: bool):
        model = copy.copy(env.model)
        if not lean:
            model.opt.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_ISLAND)
        self.batch = Batch(model, 1, 1)
        self.qpos, self.qvel = self.batch.bind("qpos"), self.batch.bind("qvel")
        rngs = KEY.episodes(1, *collected.valid.shape[:2])
        self.starts = [env.robot.initial_state(rng, env.model.qpos0) for rng in rngs]
        low, high = env.model.actuator_ctrlrange.T
        sent = collected.action.flatten(0, 1).double().numpy() * env.spec.action_scale
        lengths = collected.valid.flatten(0, 1).sum(dim=1).tolist()
        self.skip = env.robot.frame_skip
        self.controls = [
            np.repeat(np.clip(row[:length], low, high), self.skip, axis=0)[None]
            for row, length in zip(sent, lengths, strict=True)
        ]

    def replay(self, rows: range | None = None) -> int:
        """Runs the episodes `rows`, all by default; returns control steps."""
        steps = 0
        for row in rows or range(len(self.starts)):
            self.batch.reset(stage=mujoco.mjtStage.mjSTAGE_NONE)
            self.qpos[0], self.qvel[0] = self.starts[row]
            self.batch.forward()
            steps += self.controls[row].shape[1]
            self.batch.rollout(self.controls[row].shape[1], self.controls[row], record=[])
        return steps // self.skip

    def check(self, ends: np.ndarray) -> None:
        """Refuses to be a bound for other work than this: the episodes must end in the same qpos (M, nq), bit for bit."""
        for row, end in enumerate(ends):
            self.replay(range(row, row + 1))
            if not np.array_equal(self.qpos[0], end):
                raise AssertionError(f"episode {row} is not what the bare loop replays")


def profiled(run: Callable[[], int]) -> Callable[[], int]:
    """The same with MuJoCo's profiler on, as it is when the package is imported."""

    def round() -> int:
        with profiler.profile():
            return run()

    return round


def together(loops: list[Bare]) -> Callable[[], int]:
    """Bare loops at the same time, one a thread, which share the episodes."""
    count = len(loops[0].starts)
    shares = [range(i, count, len(loops)) for i in range(len(loops))]

    def run() -> int:
        with ThreadPoolExecutor(len(loops)) as pool:
            return sum(pool.map(Bare.replay, loops, shares))

    return run


class Vector:
    """A vector environment of processes with a policy of the same size in the loop, one for all."""

    def __init__(self, work: Workload, kind: str, processes: int, horizon: int, steps: int):
        def build() -> gymnasium.Env:
            mujoco.set_mju_user_warning(lambda message: None)  # half_cheetah.xml uses what will go
            return gymnasium.make(work.gymnasium_id, max_episode_steps=horizon, **work.options)

        self.gym, self.processes, self.steps = kind == "async", processes, steps
        builders = [build] * processes
        if self.gym:
            self.envs = gymnasium.vector.AsyncVectorEnv(builders)
        else:
            self.envs = SubprocVecEnv(builders, start_method="fork")
        self.obs = self.envs.reset()[0] if self.gym else self.envs.reset()
        size, actions = self.obs.shape[1], self._space().shape[0]
        self.learner = MamlTrpo(MamlTrpoConfig(), size, actions, seed=0)
        self.context = self.learner.begin(1, processes, ())
        self.low, self.high = self._space().low, self._space().high

    def _space(self) -> Any:
        return self.envs.single_action_space if self.gym else self.envs.action_space

    def round(self) -> int:
        rng = np.random.default_rng(0)
        with torch.inference_mode():
            for _ in range(self.steps):
                noise = rng.standard_normal((1, self.processes, len(self.low)), dtype=np.float32)
                seen = torch.from_numpy(self.obs.astype(np.float32))[None]
                act = self.learner.act(self.context, seen, torch.from_numpy(noise), explore=True)
                sent = np.clip(act[0].value[0].numpy(), self.low, self.high)
                self.obs = self.envs.step(sent)[0]
        return self.steps * self.processes

    def close(self) -> None:
        self.envs.close()


def best_vector(work: Workload, kind: str, horizon: int, sizes: Sizes) -> Vector:
    """The number of processes that is fastest here, by one round each."""
    rates = {}
    for processes in sizes.vector_sizes:
        with closing(Vector(work, kind, processes, horizon, sizes.vector_steps)) as vector:
            rates[processes] = take_turns({"": vector.round}, 1)[""].rate
    return Vector(work, kind, max(rates, key=rates.__getitem__), horizon, sizes.vector_steps)


def memory(ours: Ours) -> tuple[int, int]:
    """Peak of Python's and NumPy's memory during the first rollout, and the bytes of the arrays it returns."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        collected = ours.collect()
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    returned = sum(getattr(collected, f.name).nbytes for f in fields(collected))
    return peak, returned


def measure(work: Workload, sizes: Sizes) -> dict[str, Any]:
    """All contenders on one robot."""
    torch.set_num_threads(1)
    horizon = make(work.env, 1).spec.horizon
    # processes are forked before there are threads
    kinds = ("async", "subproc") if work.gymnasium_id else ()
    with profiler.profile():
        vectors = {kind: best_vector(work, kind, horizon, sizes) for kind in kinds}
    with ExitStack() as stack:
        env = stack.enter_context(closing(make(work.env, THREADS)))
        ours, memories = (Ours(env, sizes, algo) for algo in ("maml-trpo", "rl2"))
        for each in (ours, memories):
            stack.callback(each.collector.close)
        peak, returned = memory(ours)  # later rollouts use its memory again
        collected = ours.collect()
        loops = [Bare(env, collected, lean=False) for _ in range(THREADS)]
        lean = Bare(env, collected, lean=True)
        for loop in (loops[0], lean):
            loop.check(ours.collector.snapshot())
        contenders = {
            "bare": profiled(loops[0].replay),
            "lean": lean.replay,
            "ours": ours.round,
            "rl2": memories.round,
            "together": profiled(together(loops)),
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
        "ratios": [asdict(ratio) for ratio in ratios(timings, work.target)],
        "cpu_ratio": timings["ours"].cpu_rate / timings["bare"].cpu_rate,
        "memory": {"peak": peak, "returned": returned, "ratio": peak / returned},
    }


def ratios(timings: dict[str, Timing], target: float) -> list[Ratio]:
    """Ours against each of the others."""
    ours = timings["ours"]
    bound = f"ours / ({THREADS} x bare)"
    found = [
        Ratio.of(bound, ours, timings["bare"], times=THREADS, target=target),
        Ratio.of(
            f"RL^2 / ({THREADS} x bare)", timings["rl2"], timings["bare"], times=THREADS, target=0.6
        ),
        Ratio.of(f"ours / {THREADS} bare loops together", ours, timings["together"]),
        Ratio.of(f"ours / ({THREADS} x lean)", ours, timings["lean"], times=THREADS),
    ]
    if "async" in timings:
        found.append(Ratio.of("ours / AsyncVectorEnv", ours, timings["async"], target=3.0))
        found.append(Ratio.of("ours / SubprocVecEnv", ours, timings["subproc"], target=5.0))
    return found


def show(found: dict[str, Any]) -> None:
    """Prints one robot's results."""
    names = {
        "bare": "bare mj_step loop, 1 thread",
        "lean": "the same without profiler and islands",
        "together": f"{THREADS} bare loops together",
        "ours": f"ours, {found['simulations']} simulations, {THREADS} threads",
        "rl2": "ours under RL^2",
        "async": f"AsyncVectorEnv, {found['processes'].get('async')} processes",
        "subproc": f"SubprocVecEnv, {found['processes'].get('subproc')} processes",
    }
    rows = []
    for key, name in names.items():
        if key not in found["timings"]:
            continue
        timing = found["timings"][key]
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
    print(f"\n{found['env']}\n")
    print(table(("", "steps a round", "steps/s", "spread"), rows), "\n")
    print(table(RATIO_HEADER, [Ratio(**ratio).row() for ratio in found["ratios"]]), "\n")
    print(f"steps a processor second, ours / bare: {found['cpu_ratio']:.2f}")
    peak, returned = found["memory"]["peak"] / 1e6, found["memory"]["returned"] / 1e6
    ratio = found["memory"]["ratio"]
    print(f"memory: peak {peak:.1f} MB for {returned:.1f} MB of arrays: {ratio:.2f} (target 1.2)")


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    robots = [work.env for work in WORKLOADS]
    arguments.add_argument("--envs", nargs="+", choices=robots, default=robots)
    options = arguments.parse_args()
    sizes = QUICK if options.quick else Sizes()
    found = machine(("mujoco", "gymnasium", "stable-baselines3", "torch", "numpy"))
    print(describe(found))
    results = []
    for work in (work for work in WORKLOADS if work.env in options.envs):
        results.append(measure(work, sizes))
        show(results[-1])
    write_json(options.json, {"machine": found, "sizes": asdict(sizes), "results": results})


if __name__ == "__main__":
    main()
