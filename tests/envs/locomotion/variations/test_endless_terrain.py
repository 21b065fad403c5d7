"""Terrain without an end: maps repeat without a seam, and follow the robots by whole periods."""

from dataclasses import dataclass

import numpy as np
import pytest
from mujoco_runs import run
from terrain_robots import build, kind_number, place

from metarl.envs.locomotion.terrain import (
    FIELD,
    KINDS,
    PATCHES,
    TRACK,
    Terrain,
    atlas,
    heights,
    size_of,
)
from metarl.envs.robots.included.gymnasium import ANT, HALF_CHEETAH, HUMANOID
from metarl.envs.robots.included.quadruped import QUADRUPED

grids = pytest.mark.parametrize("grid", [FIELD, TRACK], ids=["field", "track"])


@grids
def test_map_repeats_after_its_period(grid):
    maps = atlas(grid, 0)
    columns, rows = (
        round(period / (2.0 * half) * (count - 1))
        for period, half, count in (
            (grid.period[0], grid.half_x, grid.columns),
            (grid.period[1], grid.half_y, grid.rows),
        )
    )
    assert columns > 0 and (rows > 0) == (grid is FIELD)
    np.testing.assert_array_equal(maps[:, :, columns:], maps[:, :, :-columns])
    if rows:
        np.testing.assert_array_equal(maps[:, rows:], maps[:, :-rows])


@grids
@pytest.mark.parametrize("kind", KINDS)
def test_map_is_as_steep_at_its_seam_as_elsewhere(grid, kind):
    for patch in range(PATCHES):
        terrain = heights(kind, 1.0, np.random.default_rng(patch), grid)
        for axis, half in ((1, grid.half_x), (0, grid.half_y)):
            period = grid.period[1 - axis]
            if not period:
                continue
            steps = np.abs(np.diff(terrain, axis=axis)).max(axis=1 - axis)
            size = len(steps)
            seams = [round(size / 2 * (1 + side * period / 2 / half)) for side in (-1, 1)]
            near = [k for seam in seams for k in (seam - 1, seam)]
            # the middle of the map, where nothing had to be joined
            inner = steps[size // 3 : 2 * size // 3]
            assert steps[near].max() <= 1.1 * inner.max()


@dataclass(frozen=True)
class Fixed(Terrain):
    """A terrain whose maps do not follow the robots; their margin reaches beyond the period."""

    def _move_maps(self, world):
        pass


@pytest.mark.parametrize(
    "robot", [ANT, HALF_CHEETAH, HUMANOID, QUADRUPED], ids=lambda robot: robot.name
)
@pytest.mark.parametrize("kind", ["waves", "steep", "basin"])
def test_robot_walks_over_the_edge_of_its_map(robot, kind):
    env, fixed = build(robot), build(robot, Fixed())
    half = 0.5 * size_of(robot) * (TRACK if robot.planar else FIELD).period[0]
    # past the edges in +x, in -x, and at a corner
    x, y = half * np.array([1, -1, 1]) - [0.2, -0.2, 0.2], np.zeros(3)
    if not robot.planar:
        y[2] = half - 0.2
    task = [kind_number[kind], 1.0, 1.0]
    # servos stop a robot within 0.1 s of standing, so that one jumps over the edge
    rest = robot.rest()[robot.height_index] + 0.3 * (robot is QUADRUPED)
    place(env, [task] * 3, x, y, rest)
    place(fixed, [task] * 3, x, y, rest)
    for each in (env, fixed):
        qpos, qvel = each.snapshot(), np.zeros((3, each.model.nv))
        qvel[:, 0] = 4.0 * np.sign(x)
        if not robot.planar:
            qvel[2, 1] = 4.0
        each.restore(qpos, qvel)
    still = np.zeros((round(0.4 / env.spec.dt), 3, env.spec.action_size))
    record, expected = run(env, still), run(fixed, still)
    travelled = np.abs(record["qpos"][-1, :, 0]) - half
    assert (travelled > 0.1).all() and (travelled < 4.0).all()
    assert (env._world.fields["geom_pos"][:, 0, 0] == 2 * half * np.sign(x)).all()
    if robot is QUADRUPED:  # its landing on stiff servos amplifies rounding
        np.testing.assert_allclose(record["qpos"], expected["qpos"], atol=1e-2)
        return
    for name in ("qpos", "qvel", "obs", "reward"):
        np.testing.assert_allclose(record[name], expected[name], atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(record["terminated"], expected["terminated"])


@pytest.mark.parametrize("robot", [ANT, HALF_CHEETAH, HUMANOID], ids=lambda robot: robot.name)
def test_ground_is_the_same_in_every_period(robot):
    env, size = build(robot), size_of(robot)
    period = size * np.array((TRACK if robot.planar else FIELD).period)
    shift_x = period[0] * np.array([0.0, 1.0, -3.0, 250.0])
    shift_y = period[1] * np.array([0.0, 2.0, -1.0, 17.0])
    task = [kind_number["rough"], 1.0, 2.0]
    env.set_tasks(np.tile(task, (4, 1)), 1)
    qpos = np.tile(env.model.qpos0, (4, 1))
    # on its back, so that a body of several geoms touches the ground
    if robot.planar:
        qpos[:, 2] = np.pi
    else:
        qpos[:, 3:7] = 0.0, 1.0, 0.0, 0.0
    qpos[:, 0], qpos[:, robot.height_index] = 6.3 * size + shift_x, 0.35 - robot.planar
    if not robot.planar:
        qpos[:, 1] = -7.1 * size + shift_y
    env.restore(qpos, np.zeros((4, env.model.nv)))
    record = run(env, np.zeros((25, 4, env.spec.action_size)))["qpos"]
    record[:, :, 0] -= shift_x
    if not robot.planar:
        record[:, :, 1] -= shift_y
    assert np.ptp(record[:, 0], axis=0).max() > 0.05
    for row in (1, 2, 3):
        np.testing.assert_allclose(record[:, row], record[:, 0], atol=1e-5)
