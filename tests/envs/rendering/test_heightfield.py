"""Pictures of terrain show the ground that MuJoCo's rays hit, task by task."""

import mujoco
import numpy as np
import pytest

from metarl.envs.locomotion.terrain import KINDS
from metarl.envs.registry import make
from metarl.envs.rendering.heightfield import (
    FLOOR_DARK,
    FLOOR_LIGHT,
    Relief,
    find_relief,
    sort_rays,
)
from metarl.envs.rendering.marker import Marker
from metarl.envs.rendering.ray_caster import RayCaster
from metarl.envs.rendering.render import plan_shot
from metarl.envs.robots.included.gymnasium import ANT

SIZE = 96
AHEAD = Marker("arrow", (1.0, 0.0))

HILL = """<mujoco>
  <asset><hfield name="h" nrow="81" ncol="81" size="8 8 2 0.5"/></asset>
  <worldbody>
    <geom type="hfield" hfield="h" pos="0 0 0"/>
    <body pos="0 0 0.4"><freejoint/><geom size="0.4" rgba="1 0 0 1"/></body>
  </worldbody>
</mujoco>"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """MuJoCo writes MUJOCO_LOG.TXT into the working directory."""
    monkeypatch.chdir(tmp_path)


def task(env, kind, level=1.0, patch=1.0):
    numbers = np.zeros(len(env.spec.tasks.variables))
    numbers[-3:] = KINDS.index(kind), level, patch
    return numbers


def view_ground(relief, eye, rays):
    """Depth (SIZE, SIZE) of the ground, positions and normals (SIZE, SIZE, 3).

    Without ground the depth is infinite, the others are NaN.
    """
    depth = np.full(rays.shape[:2], np.inf)
    point, normal = np.full((2, *rays.shape), np.nan)
    for ground in relief.view(eye, sort_rays(rays)):
        depth.ravel()[ground.pixel] = ground.depth
        point.reshape(-1, 3)[ground.pixel] = ground.point.T
        normal.reshape(-1, 3)[ground.pixel] = ground.normal.T
    return depth, point, normal


def pixel_rays(axes, focal=1.2):
    offsets = ((np.arange(SIZE) + 0.5) / SIZE - 0.5) / focal * 2
    return axes[2] + offsets[None, :, None] * axes[0] - offsets[:, None, None] * axes[1]


@pytest.mark.parametrize("name", ["ant-terrain", "half-cheetah-terrain"])
@pytest.mark.parametrize(
    # the last ones look over the end of the map's period, of 20 m or 45 m
    ("kind", "back"),
    [
        ("waves", 0),
        ("stairs", 0),
        ("gaps", 0),
        ("steep", 0),
        ("basin", 0),
        ("waves", 2),
        ("steep", 2),
    ],
)
def test_visible_ground_is_the_ground_that_rays_hit(name, kind, back):
    env = make(name, threads=1)
    model = env._model_of(task(env, kind))
    data = mujoco.MjData(model)
    data.qpos[env.robot.height_index] = 500.0  # out of the way
    mujoco.mj_kinematics(model, data)
    place = model.qpos0[None].copy()
    place[0, 0] = (45.0 if env.robot.planar else 20.0) - back if back else 4.0
    shot = plan_shot(model, place, AHEAD)
    axes = shot.axes()
    eye = shot.lookat[0] - shot.distance * axes[2]
    rays = pixel_rays(axes)
    depths, points, _ = view_ground(Relief(model), eye, rays)
    rng, groups, geom = np.random.default_rng(0), np.ones(6, np.uint8), np.zeros(1, np.int32)
    wrong = []
    for row, column in rng.integers(0, SIZE, (300, 2)):
        ray, depth = rays[row, column], depths[row, column]
        # a ray has length one along the viewing direction, as depth has
        distance = mujoco.mj_ray(model, data, eye, ray, groups, 1, -1, geom, None)
        beside = env.robot.planar and abs((eye + distance * ray)[1]) > 1.49
        if not 0 < distance < 25.0 or beside:  # only the picture continues a track
            continue
        wrong.append(abs(depth - distance) > 0.02 * distance)
        if np.isfinite(depth):
            np.testing.assert_allclose(points[row, column], eye + depth * ray, atol=1e-6)
    assert len(wrong) > 20
    assert np.mean(wrong) < 0.06  # at an edge a pixel shows one side or the other


def test_find_relief_returns_the_heights():
    assert find_relief(ANT.model()) is None
    env = make("ant-terrain", threads=1)
    for kind in ("hill", "basin", "waves"):
        env.set_tasks(task(env, kind)[None], 1)
        relief = find_relief(env._model_of(task(env, kind)))
        for x, y in ((0.0, 0.0), (3.0, -4.0), (-10.25, 6.5)):
            ground = env._world.ground.height(np.array([x]), np.array([y]))[0]
            assert relief.height(x, y) == pytest.approx(ground, abs=1e-6)


PLANE = '<geom type="plane" size="0 0 1" pos="0 0 -0.1"/>'


@pytest.mark.parametrize("more", ["", PLANE])
def test_heightfield_elsewhere_is_drawn_there(more):
    moved = 'type="hfield" hfield="h" pos="3 -2 0.2"/>'
    model = mujoco.MjModel.from_xml_string(
        HILL.replace('type="hfield" hfield="h" pos="0 0 0"/>', moved + more)
    )
    model.hfield_data[:] = np.random.default_rng(0).uniform(size=81 * 81)
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    data.geom_xpos[-1] = 1e3  # the ball out of sight
    relief = find_relief(model)
    for x, y in [(3.0, -2.0), (0.0, 0.0), (10.4, 5.3), (-4.3, -9.4), (11.5, 0.0), (-9.0, 7.0)]:
        start, down = np.array([x, y, 10.0]), np.array([0.0, 0.0, -1.0])
        ground = mujoco.mj_ray(model, data, start, down, None, 1, -1, np.zeros(1, np.int32))
        if ground >= 0:
            assert relief.height(x, y) == pytest.approx(10.0 - ground, abs=1e-6)
        else:
            assert not more
    eye = np.array([3.0, -30.0, 4.0])
    axes = np.array([[1.0, 0.0, 0.0], [0.0, 0.1, 1.0], [0.0, 1.0, -0.1]])
    depth, point, _ = view_ground(relief, eye, pixel_rays(axes))
    assert np.isfinite(depth).any()
    # the ranges at which the ground is looked up differ by up to 0.8 m there
    is_outside = np.abs(point[..., :2] - [3.0, -2.0]).max(axis=-1) > 10.0
    assert is_outside.any() == bool(more)
    np.testing.assert_allclose(point[is_outside][:, 2], -0.1, atol=1e-2)


def test_view_is_the_same_in_every_period():
    for name, shift in (
        ("ant-terrain", (-80.0, 40.0, 0.0)),
        ("half-cheetah-terrain", (90.0, 0, 0)),
    ):
        env = make(name, threads=1)
        relief = Relief(env._model_of(task(env, "waves")))
        rays, eye = pixel_rays(AXES), np.array([-4.0, 0.0, 3.0])
        near, far = view_ground(relief, eye, rays), view_ground(relief, eye + shift, rays)
        assert 0.5 < np.isfinite(near[0]).mean() < 1.0
        np.testing.assert_allclose(far[0], near[0], rtol=1e-9)
        np.testing.assert_allclose(far[1] - shift, near[1], atol=1e-6)
        np.testing.assert_allclose(far[2], near[2], atol=1e-6)


def test_view_visits_every_pixel_once_in_any_chunks(monkeypatch):
    env = make("ant-terrain", threads=1)
    rays, eye = pixel_rays(AXES), np.array([-4.0, 0.0, 3.0])
    relief, fan = find_relief(env._model_of(task(env, "waves"))), sort_rays(rays)
    assert sorted(fan.pixel) == list(range(SIZE**2))
    np.testing.assert_array_equal(fan.rays.T, rays.reshape(-1, 3)[fan.pixel])
    together = view_ground(relief, eye, rays)
    monkeypatch.setattr("metarl.envs.rendering.heightfield._NUM_TOGETHER", 7)
    for one, other in zip(together, view_ground(relief, eye, rays), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)
    assert 0.5 < np.isfinite(together[0]).mean() < 1.0


def test_normals_are_perpendicular_to_the_ground():
    env = make("half-cheetah-terrain", threads=1)
    relief = find_relief(env._model_of(task(env, "slopes", 1.0)))
    eye, down = np.array([2.5, 0.0, 3.0]), np.zeros((1, 1, 3))
    down[..., 0], down[..., 2] = 1e-3, -1.0
    normal = view_ground(relief, eye, down)[2][0, 0]
    assert np.degrees(np.arccos(normal[2])) == pytest.approx(12.0, abs=0.1)


def test_picture_shows_its_task_not_that_of_the_batch():
    env = make("ant-terrain", threads=1)
    env.set_tasks(task(env, "waves")[None], 1)
    env.reset([np.random.default_rng(0)])
    states = env.snapshot()
    states[0, 0] = 6.0

    def picture(kind):
        return next(env.render(states, task(env, kind), width=SIZE, height=SIZE)).astype(int)

    first = {kind: picture(kind) for kind in ("waves", "stairs", "steep", "gaps")}
    env.set_tasks(task(env, "hill")[None], 1)
    for kind, frame in first.items():
        np.testing.assert_array_equal(picture(kind), frame)
        for other in set(first) - {kind}:
            assert (np.abs(frame - first[other]).sum(axis=2) > 30).mean() > 0.1


AXES = np.array([[0.0, -1.0, 0.0], [0.5, 0.0, 0.5 * 3**0.5], [0.5 * 3**0.5, 0.0, -0.5]])
"""A camera that looks along x and 30 degrees down."""


def picture_of(ridge, *, ball=True):
    """A ball at the origin, seen over a ridge [m] that is 1.5 m in front of it."""
    model = mujoco.MjModel.from_xml_string(HILL)
    x = np.tile(np.linspace(-8, 8, 81), (81, 1))
    model.hfield_data[:] = (ridge * np.exp(-(((x + 1.5) / 0.3) ** 2)) / 2.0).ravel()
    data = mujoco.MjData(model)
    data.qpos[2] = 0.4 if ball else 500.0
    mujoco.mj_kinematics(model, data)
    focus = np.array([0.0, 0.0, 0.4])
    caster = RayCaster(model, AXES, SIZE, SIZE)
    return caster.frame(data, focus - 4.0 * AXES[2], focus, 0.4, [])


def red(frame):
    return (frame[..., 0] > 1.5 * frame[..., 2].astype(float)).sum()


def test_ridge_hides_the_ball_by_its_height():
    # the line of sight to the ball's middle is 0.87 m higher where the ridge is
    shown = [red(picture_of(ridge)) for ridge in (0.0, 1.25, 1.95)]
    assert shown[0] > 300
    assert 0.2 * shown[0] < shown[1] < 0.8 * shown[0]
    assert shown[2] == 0


def test_ball_casts_its_shadow_on_the_ground():
    lit, empty = (picture_of(0.0, ball=b).astype(int).sum(axis=2) for b in (True, False))
    darker = lit < 0.75 * empty
    assert 20 < darker.sum() < 0.2 * SIZE**2
    assert (np.abs(lit - empty) > 6).sum() < 0.4 * SIZE**2


def test_even_ground_has_the_colours_of_the_floor():
    frame = picture_of(0.0, ball=False)[-10:].reshape(-1, 3).astype(float) / 255
    low, high = FLOOR_DARK - 0.03, FLOOR_LIGHT + 0.03
    assert ((frame > low) & (frame < high)).all(axis=1).mean() > 0.9


@pytest.mark.parametrize("kind", ["basin", "hill"])
def test_target_stands_on_the_ground(kind):
    env = make("ant-goal-terrain", threads=1)
    goal = task(env, kind)
    goal[:2] = 2.5, 1.0
    states = env.model.qpos0[None].copy()
    frame = next(env.render(states, goal, width=200, height=200)).astype(int)
    green = (frame[..., 1] > 1.25 * frame[..., 0]) & (frame[..., 1] > 1.25 * frame[..., 2])
    model = env._model_of(goal)
    shot = plan_shot(model, states, env.marker(goal))
    axes = shot.axes()
    foot = np.array([2.5, 1.0, find_relief(model).height(2.5, 1.0)])
    seen = axes @ (foot - (shot.lookat[0] - shot.distance * axes[2]))
    focal = 100.0 / np.tan(np.radians(model.vis.global_.fovy) / 2)
    column, row = 100 + focal * seen[0] / seen[2], 100 - focal * seen[1] / seen[2]
    rows, columns = np.nonzero(green)
    # the disc lies around the foot of the post
    assert columns.min() < column < columns.max() and rows.min() < row <= rows.max()
    assert abs(columns.mean() - column) < 8
