"""Terrain: maps, heights of the ground compared with MuJoCo's, and robots on it."""

from dataclasses import replace

import mujoco
import numpy as np
import pytest
from mujoco_runs import assert_same_alone, run, streams
from terrain_robots import build, kind_number, place

from metarl.envs.locomotion.env import MujocoBatchEnv
from metarl.envs.locomotion.goals.hidden import Forward, RewardTerms
from metarl.envs.locomotion.recipe import Recipe
from metarl.envs.locomotion.terrain import (
    FIELD,
    FLAT,
    KINDS,
    LEVELS,
    PATCHES,
    TEST_KINDS,
    TRACK,
    TRAIN_KINDS,
    Terrain,
    atlas,
    heights,
    lattice,
    ridges,
    size_of,
)
from metarl.envs.locomotion.variations import Friction
from metarl.envs.robots.guessing.guess import robot_from_mjcf
from metarl.envs.robots.included.gymnasium import ANT, HALF_CHEETAH, HOPPER, HUMANOID, WALKER2D
from metarl.envs.robots.included.quadruped import QUADRUPED

grids = pytest.mark.parametrize("grid", [FIELD, TRACK], ids=["field", "track"])


def distance_from_start(grid):
    x, y = grid.points()
    return np.abs(x) if grid.rows == 2 else np.hypot(x, y)


# --- maps


@grids
def test_map_is_flat_at_the_start_and_of_limited_height(grid):
    maps = atlas(grid, 0)
    assert maps.shape == (len(KINDS) * len(LEVELS) * PATCHES, grid.rows, grid.columns)
    assert not maps[:, distance_from_start(grid) < FLAT].any()
    assert np.abs(maps).max() < 2.0
    ring = (distance_from_start(grid) > 1.5 * FLAT) & (distance_from_start(grid) < 10.0)
    assert (np.ptp(maps[:, ring], axis=1) > 0.03).all()


@grids
def test_maps_differ_and_are_a_function_of_the_seed(grid):
    maps = atlas(grid, 0).reshape(len(KINDS), -1)
    again = [
        heights(kind, level, np.random.default_rng([0, number, patch]), grid)
        for number, kind in enumerate(KINDS)
        for level in LEVELS
        for patch in range(PATCHES)
    ]
    np.testing.assert_array_equal(maps.ravel(), np.ravel(again).astype(np.float32))
    flat = atlas(grid, 0).reshape(-1, grid.rows * grid.columns)
    assert len(np.unique(flat, axis=0)) == len(flat)
    assert not np.array_equal(atlas(grid, 0)[0], atlas(grid, 1)[0])


@grids
@pytest.mark.parametrize("kind", KINDS)
def test_higher_level_is_the_same_landscape_scaled_up(grid, kind):
    spans = []
    for level in LEVELS:
        terrain = heights(kind, level, np.random.default_rng(3), grid)
        spans.append(np.ptp(terrain))
        highest = heights(kind, 1.0, np.random.default_rng(3), grid)
        assert (np.sign(terrain) * np.sign(highest) >= 0).all()
    assert (np.diff(spans) > 0).all()
    assert spans[-1] > 1.5 * spans[0] or kind == "steep"


def cross_section(kind, level=1.0, seed=3):
    return heights(kind, level, np.random.default_rng(seed), TRACK)[0]


def gradients(heights):
    return np.abs(np.diff(heights)) / (100.0 / 500)


def test_slopes_have_the_stated_angle():
    # most cells lie on one flank; those with a ridge are less steep
    for kind, level, angle in (("slopes", 1.0, 12), ("slopes", 0.4, 4.8), ("steep", 0.5, 20)):
        np.testing.assert_allclose(
            np.median(gradients(cross_section(kind, level))), np.tan(np.radians(angle))
        )
        assert gradients(cross_section(kind, level)).max() < np.tan(np.radians(angle)) + 1e-9


def test_stairs_and_gaps_have_the_stated_heights():
    stairs = cross_section("stairs", 0.5)
    np.testing.assert_allclose(stairs / 0.1, np.rint(stairs / 0.1), atol=1e-9)
    assert sorted({int(n) for n in np.abs(np.rint(stairs / 0.1))}) == [0, 1, 2, 3, 4, 5]
    assert (gradients(stairs) == 0).mean() > 0.5
    gaps = cross_section("gaps", 0.5)
    assert set(np.unique(gaps.round(9))) == {-0.3, 0.0}
    assert 0.1 < (gaps < 0).mean() < 0.5


def test_basin_rises_and_hill_falls_from_the_start():
    for patch in range(PATCHES):
        basin, hill = cross_section("basin", seed=patch), cross_section("hill", seed=patch)
        outward = basin[250:]
        assert (np.diff(outward) >= 0).all() and outward[0] == 0 and outward[-1] > 1.5
        assert (np.diff(hill[250:]) <= 0).all() and hill[-1] < -1.5


def test_ridges_are_triangles_and_lattice_is_interpolated():
    np.testing.assert_allclose(ridges(np.array([0, 1, 2, 3, 4, 5.0]), 4.0), [0, 1, 2, 1, 0, 1])
    x, y = np.meshgrid(np.arange(0, 8, 0.25), np.arange(0, 6, 0.25))
    noise = lattice(np.random.default_rng(0), x, y, 0.5, (8.0, 6.0))
    nodes = noise[::2, ::2]
    np.testing.assert_allclose(noise[::2, 1:-1:2], 0.5 * (nodes[:, :-1] + nodes[:, 1:]))
    np.testing.assert_allclose(noise[1:-1:2, ::2], 0.5 * (nodes[:-1] + nodes[1:]))
    assert np.abs(noise).max() <= 1.0 and nodes.std() == pytest.approx(3**-0.5, rel=0.1)
    further = lattice(np.random.default_rng(0), x - 8.0, y + 12.0, 0.5, (8.0, 6.0))
    np.testing.assert_allclose(further, noise, atol=1e-12)


def test_heights_names_an_unknown_kind():
    with pytest.raises(ValueError, match="no kind of terrain 'lava'; there are slopes"):
        heights("lava", 1.0, np.random.default_rng(0), TRACK)


def test_training_and_test_kinds_are_disjoint():
    tasks = Terrain().tasks(ANT)
    drawn = [d.sample(np.random.default_rng(0), 400) for d in (tasks, tasks.test)]
    kinds = [{KINDS[int(row[0])] for row in rows} for rows in drawn]
    assert kinds == [set(TRAIN_KINDS), set(TEST_KINDS)] and not kinds[0] & kinds[1]
    for rows in drawn:
        assert set(rows[:, 1]) == set(LEVELS) and set(rows[:, 2]) == set(range(PATCHES))


# --- heights compared with MuJoCo's


@pytest.mark.parametrize(
    "robot", [ANT, HALF_CHEETAH, QUADRUPED, HUMANOID], ids=lambda robot: robot.name
)
def test_ground_height_equals_mujocos_ray_casts(robot):
    env = build(robot)
    tasks = [[kind, 1.0, patch] for kind in range(len(KINDS)) for patch in (0, 3)]
    env.set_tasks(np.array(tasks, dtype=float), 1)
    rng, grid = np.random.default_rng(0), TRACK if robot.planar else FIELD
    size = 0.99 * size_of(robot)
    x, y = (
        rng.uniform(-half, half, (len(tasks), 50)) * size for half in (grid.half_x, grid.half_y)
    )
    ground = env._world.ground.height(x, y)
    down, groups, hit = np.array([0, 0, -1.0]), np.ones(6, np.uint8), np.zeros(1, np.int32)
    for row in range(len(tasks)):
        model = env._batch.get_model(row)
        data = mujoco.MjData(model)
        data.qpos[robot.height_index] = 100.0  # out of the way
        mujoco.mj_kinematics(model, data)
        for k in range(50):
            origin = np.array([x[row, k], y[row, k], 10.0])
            distance = mujoco.mj_ray(model, data, origin, down, groups, 1, -1, hit, None)
            assert ground[row, k] == pytest.approx(10.0 - distance, abs=1e-6)


@pytest.mark.parametrize(
    ("robot", "size"),
    # the hips of the Humanoid are 0.935 m above the ground, its base, the chest, 1.4 m
    [(QUADRUPED, 0.38), (HUMANOID, round(0.935 / 0.75, 2))],
    ids=lambda value: getattr(value, "name", value),
)
def test_robot_meets_the_landscape_in_proportion(robot, size):
    assert [size_of(each) for each in (ANT, HALF_CHEETAH, robot)] == [1.0, 1.0, size]
    plain, scaled = build(ANT), build(robot)
    tasks = np.array([[kind, 0.6, 1.0] for kind in range(len(KINDS))], dtype=float)
    for env in (plain, scaled):
        env.set_tasks(tasks, 1)
    x, y = np.random.default_rng(0).uniform(-50.0, 50.0, (2, len(tasks), 100))
    expected = plain._world.ground.height(x, y)
    found = scaled._world.ground.height(size * x, size * y)
    np.testing.assert_allclose(found, size * expected, atol=1e-5)
    assert (scaled.spec.version, plain.spec.version) == (3, 3 - 1)


@pytest.mark.parametrize(("legs", "size"), [(2, 1.4), (1, 2.0)])
def test_size_is_that_of_the_hips_of_a_large_robot(tmp_path, legs, size):
    path = tmp_path / "giant.xml"
    leg = """<body pos="{x} 0 -0.45"><joint name="hip{x}" axis="0 1 0" range="-60 60"/>
    <geom type="capsule" size="0.05" fromto="0 0 0 0 0 -0.5"/><body pos="0 0 -0.5">
    <joint name="knee{x}" axis="0 1 0" range="-60 60"/>
    <geom type="capsule" size="0.05" fromto="0 0 0 0 0 -0.5"/></body></body>"""
    parts = "".join(leg.format(x=x) for x in (0.3, -0.3)[:legs])
    path.write_text(f"""<mujoco><worldbody><body pos="0 0 1.5"><freejoint/>
    <geom type="box" size="0.4 0.2 0.1"/>{parts}</body></worldbody><actuator>
    <position joint="hip0.3" kp="9"/><position joint="knee0.3" kp="9"/></actuator></mujoco>""")
    assert size_of(robot_from_mjcf(path)) == size


def test_base_at_the_ground_says_nothing_of_the_size():
    low = replace(QUADRUPED, home=(0.0, 0.0, 0.0, *QUADRUPED.home[3:]))
    assert size_of(low) == 1.0


def test_ground_height_is_finite_everywhere():
    for robot in (ANT, HALF_CHEETAH):
        env = build(robot)
        env.set_tasks(np.tile([kind_number["basin"], 1.0, 0.0], (5, 1)), 1)
        x = np.array([25.0, 1e12, np.nan, -np.inf, 0.0])
        y = np.array([0.0, 0.0, 0.0, 1e300, np.inf])
        assert np.isfinite(env._world.ground.height(x, y)).all()


@pytest.mark.parametrize("robot", [ANT, HALF_CHEETAH], ids=lambda robot: robot.name)
def test_reset_on_terrain_equals_reset_on_a_plane(robot):
    flat = MujocoBatchEnv("test", Recipe(robot, Forward(), RewardTerms()), threads=1)
    flat.set_tasks(np.zeros((3, 0)), 1)
    env = build(robot)
    env.set_tasks(np.array([[kind_number[k], 1.0, 1.0] for k in ("steep", "gaps", "rough")]), 1)
    np.testing.assert_array_equal(env.reset(streams(3)), flat.reset(streams(3)))
    still = np.zeros((80, 3, env.spec.action_size))
    for each in (env, flat):
        run(each, still[20:])
        lowest = np.inf
        for action in still[:20]:  # it still moves a little
            each.step(action, np.ones(3, dtype=bool))
            lowest = np.minimum(lowest, [lowest_point(each, row) for row in range(3)])
        # MuJoCo keeps an Ant 2 cm above plane and heightfield, the sum of two margins
        assert (lowest > -0.02).all() and (lowest < 0.0201).all()


def lowest_point(env, row):
    """Returns the height of the lowest point of a robot's capsules and spheres [m]."""
    model, data = env._batch.get_model(row), env._batch.get_data(row)
    mujoco.mj_kinematics(model, data)
    half = np.where(model.geom_type == mujoco.mjtGeom.mjGEOM_CAPSULE, model.geom_size[:, 1], 0.0)
    low = data.geom_xpos[:, 2] - half * np.abs(data.geom_xmat[:, 8]) - model.geom_size[:, 0]
    return low[model.geom_bodyid > 0].min()


@pytest.mark.parametrize("kind", ["basin", "hill", "stairs", "steep"])
def test_robot_stands_on_the_ground_of_its_own_task(kind):
    env = build(ANT)
    tasks = [[kind_number[kind], level, patch] for level in (0.4, 1.0) for patch in (0.0, 2.0)]
    x, y = np.array([6.0, 6.0, -7.0, 5.0]), np.array([0.0, 3.0, 1.0, -6.0])
    ground = place(env, tasks, x, y, 0.75)
    assert np.ptp(ground) > 0.2
    qpos = run(env, np.zeros((30, 4, 8)))["qpos"][-1]
    above = qpos[:, 2] - env._world.ground.height(qpos[:, 0], qpos[:, 1])
    assert (above > 0.25).all() and (above < 0.7).all()


# --- health


def test_health_depends_on_the_height_above_the_ground():
    env = build(ANT)
    up, down = [kind_number["basin"], 1.0, 0.0], [kind_number["hill"], 1.0, 0.0]
    x, still = np.full(4, 15.0), np.zeros((1, 4, 8))
    ground = place(env, [up, up, down, down], x, np.zeros(4), np.array([0.75, 1.2, 0.75, 2.2]))
    assert ground[0] > 1.5 and ground[2] < -1.5
    # on a plane the first and third would be unhealthy and the last healthy
    height = env.snapshot()[:, 2]
    assert height[0] > 1.0 and height[2] < 0.2 < height[3] < 1.0
    np.testing.assert_array_equal(run(env, still)["terminated"], [[False, True, False, True]])


@pytest.mark.parametrize("robot", [WALKER2D, HOPPER], ids=lambda robot: robot.name)
def test_planar_health_depends_on_height_above_the_ground(robot):
    env = build(robot)
    basin, hill = [kind_number["basin"], 1.0, 0.0], [kind_number["hill"], 1.0, 0.0]
    rest = env.model.qpos0[robot.height_index]
    x, above = np.full(3, 15.0), np.array([rest, 0.5, rest])
    ground = place(env, [basin, basin, hill], x, np.zeros(3), above)
    assert ground[0] > 1.5 and ground[2] < -1.5
    # on a plane the second would be healthy and the third, below zero, would not
    still = np.zeros((1, 3, env.spec.action_size))
    np.testing.assert_array_equal(run(env, still)["terminated"], [[False, True, False]])


# --- scan


def test_scan_observes_the_ground_around_the_robot():
    env = build(ANT, observed=True)
    assert env.spec.obs_size == 27 + 25
    place(env, [[kind_number["waves"], 1.0, 0.0]], [0.0], [0.0], 0.75)
    np.testing.assert_allclose(env._observe()[0, 27 + 12], 0.0, atol=1e-12)
    place(env, [[kind_number["waves"], 1.0, 0.0]], [6.0], [-4.0], 0.65)
    scan = env._observe()[0, 27:].reshape(5, 5)
    ground = env._world.ground
    here = ground.height(np.array([6.0]), np.array([-4.0]))[0]
    for row, y in enumerate((-1.0, -0.5, 0.0, 0.5, 1.0)):
        for column, x in enumerate((-1.0, -0.5, 0.0, 0.5, 1.0)):
            there = ground.height(np.array([6.0 + x]), np.array([-4.0 + y]))[0]
            # it is 0.1 m below its rest height of 0.75 m, so the ground is 0.1 m nearer
            assert scan[row, column] == pytest.approx(there - here + 0.1, abs=1e-9)
    assert np.ptp(scan) > 0.1


def test_scan_turns_with_a_robot_that_observes_its_own_axes():
    env = build(QUADRUPED, observed=True)
    env.set_tasks(np.array([[kind_number["rough"], 1.0, 0.0]]), 1)
    env.reset(streams(1))
    qpos, heading = env.snapshot(), 1.2
    qpos[0, :3] = 3.3, -2.1, env._rest[2]
    turn, tilt = np.zeros(4), np.array([np.cos(0.1), 0.0, np.sin(0.1), 0.0])
    mujoco.mju_mulQuat(turn, np.array([np.cos(heading / 2), 0, 0, np.sin(heading / 2)]), tilt)
    qpos[0, 3:7] = turn
    scan = env.restore(qpos, np.zeros_like(env._qvel))[0, -25:]
    for (x, y), height in zip(env._scan, scan, strict=True):
        east = 3.3 + np.cos(heading) * x - np.sin(heading) * y
        north = -2.1 + np.sin(heading) * x + np.cos(heading) * y
        there = env._world.ground.height(np.array([east]), np.array([north]))[0]
        assert height == pytest.approx(there, abs=1e-9)
    assert np.ptp(scan) > 0.01
    assert env.spec.version == build(QUADRUPED).spec.version + 1


def test_planar_scan_looks_ahead_and_changes_no_motion():
    paths = []
    for observed in (False, True):
        env = build(HALF_CHEETAH, observed=observed)
        env.set_tasks(np.array([[kind_number["gaps"], 1.0, 0.0]]), 1)
        env.reset(streams(1))
        record = run(env, np.random.default_rng(0).normal(size=(60, 1, 6)))
        paths.append(record["qpos"])
    np.testing.assert_array_equal(*paths)
    assert record["obs"].shape[2] == 17 + 13
    scan = record["obs"][:, 0, 17:]
    np.testing.assert_allclose(scan[0], scan[0, 0], atol=1e-6)  # flat, within 1.25 m of the start
    place(env, [[kind_number["basin"], 1.0, 0.0]], [8.0], [0.0], 0.0)
    assert (np.diff(env._observe()[0, 17:]) > 0).all()  # uphill ahead


# --- batches


@pytest.mark.parametrize("robot", [ANT, HALF_CHEETAH, HUMANOID], ids=lambda robot: robot.name)
def test_batch_of_tasks_equals_each_task_alone(robot):
    env = build(robot, Terrain(observed=True), Friction())
    rng = np.random.default_rng(1)
    tasks = np.concatenate([d.sample(rng, 2) for d in (env.spec.tasks, env.spec.tasks.test)])
    actions = np.random.default_rng(0).normal(size=(40, 8, env.spec.action_size))
    env.set_tasks(tasks, 2)
    first = env.reset(streams(8)).copy()
    record = run(env, actions)
    alone = build(robot, Terrain(observed=True), Friction(), threads=2)
    assert_same_alone(alone, tasks, actions, first, record, (3, 0, 2, 1))
