"""Cost of terrain: `python -m benchmarks.terrain [--json FILE] [--quick]`.

Times 400 simulations of a robot on flat ground and on maps of all kinds, in turn in one process,
with the same random actions and without a policy: physics, observation, reward and health. The
robots start all over the maps, because these are flat around the usual start. As in a rollout, a
fallen robot is no longer stepped; an episode ends when all have fallen.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.side_by_side import (
    RATIO_HEADER,
    Ratio,
    describe,
    machine,
    parser,
    table,
    take_turns,
    write_json,
)
from metarl.core.rng import stream
from metarl.envs.locomotion.env import MujocoBatchEnv
from metarl.envs.registry import make

THREADS = len(os.sched_getaffinity(0))
PLACES = 20.0
"""Largest initial distance from the centre of a map along each axis [m]."""
REACH = np.linspace(-0.75, 0.75, 7)
"""Offsets from a robot's centre at which it may touch the ground, along each axis [m]."""
ROBOTS = ("ant-dir", "half-cheetah-dir", "walker2d-dir", "hopper-vel", "humanoid-dir")


@dataclass(frozen=True)
class Sizes:
    """Size of the measurement.

    Attributes:
        rows: Number of simulations.
        steps: Control steps of an episode.
        rounds: Number of timed rounds.
    """

    rows: int = 400
    steps: int = 100
    rounds: int = 7


QUICK = Sizes(rows=20, steps=10, rounds=2)


class Walk:
    """Episodes of random actions, half of them on training and half on test tasks."""

    def __init__(self, env: MujocoBatchEnv, sizes: Sizes):
        self.env, self.sizes = env, sizes
        tasks, half = env.spec.tasks, sizes.rows // 2
        rng = stream(0, "tasks")
        both = [tasks.sample(rng, half), tasks.test.sample(rng, sizes.rows - half)]
        env.set_tasks(np.concatenate(both), 1)
        shape = (sizes.steps, sizes.rows, env.spec.action_size)
        self.actions = stream(0, "actions").standard_normal(shape)
        self.starts = self._starts()

    def _starts(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns states (M, nq), (M, nv) at rest height above the highest ground within REACH."""
        env, rng = self.env, stream(0, "starts")
        pairs = [env.robot.initial_state(rng, env.robot.rest()) for _ in range(self.sizes.rows)]
        qpos, qvel = map(np.array, zip(*pairs, strict=True))
        place = rng.uniform(-PLACES, PLACES, (self.sizes.rows, 2))
        place[:, 1:] *= not env.robot.planar
        axes = 1 if env.robot.planar else 2
        qpos[:, :axes] += place[:, :axes]
        ground = env._world.ground
        if ground is not None:
            across, along = np.meshgrid(REACH, REACH)
            around = ground.height(place[:, :1] + across.ravel(), place[:, 1:] + along.ravel())
            qpos[:, env.robot.height_index] += around.max(axis=1)
        return qpos, qvel

    def round(self) -> int:
        """Runs the episodes; returns the number of control steps."""
        alive = np.ones(self.sizes.rows, dtype=bool)
        self.env.restore(*self.starts)
        steps = 0
        for action in self.actions:
            steps += int(alive.sum())
            step = self.env.step(action, alive)
            alive &= ~(step.terminated | step.fault)
            if not alive.any():
                break
        return steps


def measure(robot: str, sizes: Sizes) -> Ratio:
    """Measures the time per step on terrain relative to flat ground."""
    with ExitStack() as stack:
        grounds = {"flat": robot, "terrain": f"{robot}-terrain"}
        walks = {
            ground: Walk(stack.enter_context(closing(make(name, THREADS))), sizes)
            for ground, name in grounds.items()
        }
        contenders = {ground: walk.round for ground, walk in walks.items()}
        timings = take_turns(contenders, sizes.rounds)
    return Ratio.of(robot, timings["flat"], timings["terrain"], target=2.5)


def main() -> None:
    options = parser(__doc__, ROBOTS).parse_args()
    sizes = QUICK if options.quick else Sizes()
    computer = machine(("mujoco", "numpy"))
    title = "time per step on terrain relative to flat ground, at most the target"
    print(describe(computer), f"\n\n{title}\n")
    ratios = [measure(robot, sizes) for robot in options.envs]
    print(table(RATIO_HEADER, [ratio.row() for ratio in ratios]))
    results = [asdict(ratio) for ratio in ratios]
    write_json(options.json, {"machine": computer, "sizes": asdict(sizes), "results": results})


if __name__ == "__main__":
    main()
