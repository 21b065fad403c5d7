import math
import os
import subprocess
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest

from metarl.envs.rendering import render
from metarl.envs.rendering.marker import Marker
from metarl.envs.rendering.ray_caster import RayCaster, cast, checker
from metarl.envs.rendering.render import place_marker, plan_shot, render_mujoco
from metarl.envs.robots.arms.arm import ARM
from metarl.envs.robots.included.gymnasium import ANT, HALF_CHEETAH

ROOT = Path(__file__).resolve().parents[3]
SIZE = 160
NO_GOAL = Marker("arrow", (0.0, 0.0))

BALL = """<mujoco><visual><global fovy="45"/></visual><worldbody>{extra}
  <body pos="0 0 {height}"><freejoint/><geom size="0.4" rgba="1 0 0 1"/></body>
</worldbody></mujoco>"""
FLOOR = '<geom type="plane" size="5 5 1"/>'


def frames(model, states, marker):
    return list(
        render_mujoco(model, np.array(states), marker, width=SIZE, height=SIZE, backend="rays")
    )


def green(frame):
    """Pixels (rows, columns) of the marker, in light or in shadow."""
    red, green, blue = frame.astype(int).transpose(2, 0, 1)
    return (green > 1.25 * red) & (green > 1.25 * blue)


def centre(mask):
    """Mean column and row of a mask [pixels]."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean() + 0.5, rows.mean() + 0.5])


def project(model, shot, row, point):
    """Column and row of a point (3,) [pixels], from the angles of MuJoCo's free camera."""
    azimuth, elevation = math.radians(shot.azimuth), math.radians(shot.elevation)
    forward = np.array(
        [
            math.cos(elevation) * math.cos(azimuth),
            math.cos(elevation) * math.sin(azimuth),
            math.sin(elevation),
        ]
    )
    right = np.array([math.sin(azimuth), -math.cos(azimuth), 0.0])
    offset = np.asarray(point) - (shot.lookat[row] - shot.distance * forward)
    depth = offset @ forward
    focal = 0.5 * SIZE / math.tan(math.radians(model.vis.global_.fovy) / 2)
    across, above = offset @ right / depth, offset @ np.cross(right, forward) / depth
    return np.array([0.5 * SIZE + focal * across, 0.5 * SIZE - focal * above])


def ball(extra="", height=1.0):
    return mujoco.MjModel.from_xml_string(BALL.format(extra=extra, height=height))


def ball_caster(model, axes):
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    return RayCaster(model, axes, SIZE, SIZE), data


def test_ball_covers_the_disc_of_the_closed_form():
    model = ball()
    axes = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    caster, data = ball_caster(model, axes)
    focus = np.array([0.0, 0.0, 1.0])
    frame = caster.frame(data, focus - 3.0 * axes[2], focus, 0.4, []).astype(float)
    red = np.clip((frame[..., 0] - frame[..., 2]) / frame[..., 0].clip(1), 0, None) > 0.5
    focal = 0.5 * SIZE / math.tan(math.radians(22.5))
    radius = focal * math.tan(math.asin(0.4 / 3.0))
    assert red.sum() == pytest.approx(math.pi * radius**2, rel=0.03)
    np.testing.assert_allclose(centre(red), [0.5 * SIZE, 0.5 * SIZE], atol=0.3)


def test_rays_end_on_the_sphere_with_its_normals():
    model = ball()
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    origin, middle = np.array([-3.0, 0.2, 0.7]), np.array([0.0, 0.0, 1.0])
    rays = middle - origin + np.random.default_rng(0).uniform(-0.6, 0.6, (500, 3))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    along = rays @ (middle - origin)
    inside = 0.4**2 - (np.sum((middle - origin) ** 2) - along**2)
    hits = cast(model, data, origin, rays, static=False)
    hit = inside > 0
    assert 50 < hit.sum() < 450
    np.testing.assert_array_equal(hits.geom >= 0, hit)
    np.testing.assert_allclose(hits.distance[hit], along[hit] - np.sqrt(inside[hit]), atol=1e-9)
    points = origin + rays[hit] * hits.distance[hit, None]
    np.testing.assert_allclose(hits.normal[hit], (points - middle) / 0.4, atol=1e-6)
    assert np.isinf(hits.distance[~hit]).all()


def test_floor_is_darker_only_under_the_ball():
    axes = plan_shot(ball(), np.array([[0, 0, 1, 1, 0, 0, 0.0]]), NO_GOAL).axes()
    focus = np.array([0.0, 0.0, 1.0])
    eye = focus - 5.0 * axes[2]
    with_ball, data = ball_caster(ball(FLOOR), axes)
    frame = with_ball.frame(data, eye, focus, 0.4, []).astype(int)
    data.qpos[2] = 500.0
    mujoco.mj_kinematics(with_ball._model, data)
    empty = with_ball.frame(data, eye, focus, 0.4, []).astype(int)
    red = frame[..., 0] > 1.3 * frame[..., 2]
    darker = (frame.sum(axis=2) < 0.8 * empty.sum(axis=2)) & ~red
    changed = (np.abs(frame - empty).sum(axis=2) > 6) & ~red
    assert darker.sum() > 50
    assert 0 < changed.sum() < 0.1 * SIZE**2


def test_static_box_is_drawn_and_hides_the_ball():
    box = '<geom type="box" size="0.1 2 2" pos="-1.5 0 1"/>'
    axes = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    focus = np.array([0.0, 0.0, 1.0])
    shown = []
    for extra in (FLOOR, FLOOR + box):
        caster, data = ball_caster(ball(extra), axes)
        frame = caster.frame(data, focus - 3.0 * axes[2], focus, 0.4, []).astype(float)
        shown.append((frame[..., 0] > 1.5 * frame[..., 2]).sum())
    assert shown[0] > 500
    assert shown[1] == 0


def test_checker_averages_over_its_box():
    x, y = np.array([0.5, 1.5, 0.5, 1.5]), np.array([0.5, 0.5, 1.5, 1.5])
    tiny = np.full(4, 1e-3)
    first = checker(x, y, tiny, tiny)
    np.testing.assert_allclose(first, [first[0], 1 - first[0], 1 - first[0], first[0]], atol=1e-9)
    assert first[0] in (pytest.approx(0.0), pytest.approx(1.0))
    np.testing.assert_allclose(checker(x, y, np.full(4, 2.0), tiny), 0.5, atol=1e-9)


@pytest.mark.parametrize("angle", [0.0, 1.2, 2.6, 4.0, 5.5])
def test_arrow_starts_at_the_robot_along_the_task(angle):
    model = ANT.model()
    marker = Marker("arrow", (math.cos(angle), math.sin(angle)))
    states = model.qpos0[None].copy()
    frame = frames(model, states, marker)[0]
    shot = plan_shot(model, states, marker)
    floor = np.array([0.0, 0.0, 0.0])
    tail = project(model, shot, 0, floor)
    ahead = project(model, shot, 0, floor + [*marker.vector, 0.0]) - tail
    rows, columns = np.nonzero(green(frame))
    reach = (np.stack([columns, rows], axis=1) + 0.5 - tail) @ (ahead / np.linalg.norm(ahead))
    tip = place_marker(marker, shot, 0, 0.0)[1].end
    length = np.linalg.norm(project(model, shot, 0, tip) - tail)
    assert reach.max() == pytest.approx(length, abs=2.5)
    assert reach.min() > -0.25 * length


def test_planar_arrow_shows_direction_and_speed(tmp_path, monkeypatch):
    # MuJoCo logs this model's deprecated attribute into the working directory
    monkeypatch.chdir(tmp_path)
    model = HALF_CHEETAH.model()
    widths = []
    for speed in (-1.0, 1.0, 3.0):
        frame = frames(model, model.qpos0[None], Marker("arrow", (speed, 0.0)))[0]
        columns = np.flatnonzero(green(frame).any(axis=0))
        tallest = green(frame).sum(axis=0).argmax()
        widths.append(columns[-1] - columns[0])
        assert (tallest > columns.mean()) == (speed > 0), "the head is the tallest part"
        assert 0 < columns[0] and columns[-1] < SIZE - 1, "the arrow lies within the picture"
    assert widths[0] == pytest.approx(widths[1], abs=1)
    assert widths[2] > 1.2 * widths[1]


def test_camera_follows_the_robot():
    model = ANT.model()
    states = np.repeat(model.qpos0[None], 3, axis=0)
    pictures = []
    for shift in (0.0, 0.5, 6.0):
        states[:, 0] = shift
        pictures.append(frames(model, states, NO_GOAL)[1].astype(int))
    # the floor repeats every 2 m
    assert np.abs(pictures[2] - pictures[0]).max() <= 2
    moved = np.abs(pictures[1] - pictures[0]).sum(axis=2) > 30
    middle = np.s_[SIZE // 2 - 4 : SIZE // 2 + 4, SIZE // 2 - 4 : SIZE // 2 + 4]
    assert moved.mean() > 0.1
    assert not moved[middle].any()


def test_robot_stays_in_the_picture():
    model = ANT.model()
    states = np.repeat(model.qpos0[None], 40, axis=0)
    states[:, 0] = np.linspace(0.0, 12.0, 40)
    shot = plan_shot(model, states, NO_GOAL)
    for row in (0, 20, 39):
        place = project(model, shot, row, shot.root[row])
        assert np.abs(place - 0.5 * SIZE).max() < 0.3 * SIZE


@pytest.mark.parametrize("point", [(3.0, 0.0), (-2.0, 2.0), (0.0, -3.0)])
def test_target_stands_at_its_point_in_the_picture(point):
    model = ANT.model()
    marker = Marker("target", point)
    states = model.qpos0[None].copy()
    mask = green(frames(model, states, marker)[0])
    shot = plan_shot(model, states, marker)
    foot = project(model, shot, 0, [*point, 0.0])
    assert ((foot > 4) & (foot < SIZE - 4)).all()
    column, row = foot.astype(int)
    assert mask[row - 1 : row + 2, column - 1 : column + 2].any()
    assert np.abs(np.nonzero(mask)[1] + 0.5 - foot[0]).max() < 0.15 * SIZE


@pytest.mark.parametrize("point", [(0.4, 0.2, 0.6), (-0.4, -0.3, 0.1), (0.1, -0.5, 0.9)])
def test_point_in_space_is_drawn_at_its_height(point):
    model = ARM.model()
    marker, states = Marker("point", point), np.array([ARM.home])
    mask = green(frames(model, states, marker)[0])
    shot = plan_shot(model, states, marker)
    column, row = project(model, shot, 0, np.array(point)).astype(int)
    assert (np.array([column, row]) > 4).all() and (np.array([column, row]) < SIZE - 4).all()
    assert mask[row - 1 : row + 2, column - 1 : column + 2].all()
    assert np.nonzero(mask)[0].min() > row - 0.1 * SIZE  # nothing above it


def test_post_and_robot_hide_each_other_by_depth():
    model = ball(FLOOR, height=0.4)
    states = model.qpos0[None].copy()
    seen = []
    for sign in (-1.0, 1.0):
        azimuth = math.radians(60.0)
        marker = Marker("target", (sign * math.cos(azimuth), sign * math.sin(azimuth)))
        frame = frames(model, states, marker)[0]
        shot = plan_shot(model, states, marker)
        column, row = project(model, shot, 0, [0.0, 0.0, 0.4]).astype(int)
        seen.append(green(frame)[row - 1 : row + 2, column - 1 : column + 2].any())
    assert seen == [True, False]


def test_frames_are_uint8_in_size_and_deterministic():
    model = ANT.model()
    marker = Marker("arrow", (1.0, 0.0))
    states = np.repeat(model.qpos0[None], 2, axis=0)
    runs = [
        list(render_mujoco(model, states, marker, width=96, height=64, backend="rays"))
        for _ in range(2)
    ]
    assert len(runs[0]) == 2
    assert runs[0][0].shape == (64, 96, 3) and runs[0][0].dtype == np.uint8
    np.testing.assert_array_equal(runs[0], runs[1])


def test_states_that_are_not_finite_are_named():
    model = ANT.model()
    states = np.repeat(model.qpos0[None], 3, axis=0)
    states[1, 4] = np.nan
    with pytest.raises(ValueError, match="state 1 of 3 is not finite"):
        render_mujoco(model, states, NO_GOAL, width=8, height=8)
    with pytest.raises(ValueError, match=r"\(L, 15\)"):
        render_mujoco(model, states[:, :3], NO_GOAL, width=8, height=8)


def run_python(code, cwd, **variables):
    environment = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "DISPLAY")}
    environment.update(variables, PYTHONPATH=str(ROOT))
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_render_needs_no_display_and_no_opengl(tmp_path):
    code = """
import sys
import metarl.envs.rendering.render as rendering
from metarl.envs.locomotion.goals.hidden import Marker
from metarl.envs.robots.included.gymnasium import ANT
model = ANT.model()
frame = next(rendering.render_mujoco(
    model, model.qpos0[None], Marker("arrow", (1.0, 0.0)), width=64, height=48))
assert frame.shape == (48, 64, 3) and frame.std() > 5
print(rendering.gl_works(), [name for name in sys.modules if name.split(".")[0] == "OpenGL"])
"""
    done = run_python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    if sys.platform == "linux" and "WAYLAND_DISPLAY" not in os.environ:
        assert done.stdout == "False []\n"


def draw_with_gl(code, folder, library):
    """Runs a program that prints "drawn" where a GL context opens."""
    # where the library is missing, MuJoCo cannot even be imported
    probe = run_python(f"import mujoco\n{render._PROBE}", folder, MUJOCO_GL=library)
    if probe.returncode != 0:
        pytest.skip(f"no GL context opens here with {library}")
    done = run_python(code, folder, MUJOCO_GL=library)
    assert "drawn" in done.stdout, done.stderr


@pytest.mark.parametrize("library", ["egl", "osmesa"])
@pytest.mark.parametrize(
    ("name", "num_tasks", "x"),  # GL without a GPU takes 9 s for each of Ant's maps
    # the period of a track ends 45 m from the start
    [("half-cheetah-terrain", 3, 43.0), ("ant-terrain", 1, 0.0), ("humanoid-dir", 3, 0.0)],
)
def test_gl_draws_ground_and_sky_as_the_ray_caster(name, num_tasks, x, library, tmp_path):
    code = f"""
import numpy as np
from metarl.envs.registry import make
from metarl.envs.rendering.render import gl_works, render_mujoco
if gl_works():
    env = make({name!r}, 1)
    for k, task in enumerate(env.spec.tasks.test.sample(np.random.default_rng(0), {num_tasks})):
        model, marker = env._model_of(task), env.marker(task)
        state = model.qpos0[None].copy()
        state[0, 0] = {x}
        for backend in ("gl", "rays"):
            frame = next(render_mujoco(
                model, state, marker, width=320, height=240, backend=backend))
            np.save(f"{{backend}}{{k}}.npy", frame)
    print("drawn")
"""
    draw_with_gl(code, tmp_path, library)
    for k in range(num_tasks):
        gl, rays = (np.load(tmp_path / f"{kind}{k}.npy").mean(axis=2) for kind in ("gl", "rays"))
        assert np.corrcoef(gl.ravel(), rays.ravel())[0, 1] > 0.5


@pytest.mark.parametrize("library", ["egl", "osmesa"])
def test_gl_draws_camera_and_marker_as_the_ray_caster(library, tmp_path):
    code = """
import numpy as np
from metarl.envs.locomotion.goals.hidden import Marker
from metarl.envs.rendering.render import gl_works, render_mujoco
from metarl.envs.robots.included.gymnasium import ANT
if gl_works():
    model = ANT.model()
    before = model.tex_data.copy(), model.vis.global_.offwidth
    for k, marker in enumerate([Marker("arrow", (-0.8, 0.6)), Marker("target", (1.0, 2.0))]):
        for backend in ("gl", "rays"):
            frame = next(render_mujoco(
                model, model.qpos0[None], marker, width=700, height=320, backend=backend))
            np.save(f"{backend}{k}.npy", frame)
    both = [render_mujoco(model, np.repeat(model.qpos0[None], 2, axis=0), marker,
                          width=700, height=320, backend="gl") for _ in range(2)]
    alone = np.load("gl1.npy")
    assert all((frame == alone).all() for pair in zip(*both) for frame in pair), "contexts mixed"
    assert (model.tex_data == before[0]).all() and model.vis.global_.offwidth == before[1]
    print("drawn")
"""
    draw_with_gl(code, tmp_path, library)
    for k in (0, 1):
        gl, rays = (np.load(tmp_path / f"{name}{k}.npy") for name in ("gl", "rays"))
        columns = [np.flatnonzero(green(frame).sum(axis=0) > 1)[[0, -1]] for frame in (gl, rays)]
        rows = [np.flatnonzero(green(frame).sum(axis=1) > 1)[[0, -1]] for frame in (gl, rays)]
        # the arrow agrees to a pixel; the pale rim of the target's disc is greener in GL
        np.testing.assert_allclose(columns[0], columns[1], atol=(2, 9)[k])
        np.testing.assert_allclose(rows[0], rows[1], atol=(2, 9)[k])
        brown = [(f[..., 0] > 1.25 * f[..., 2].astype(float)) & ~green(f) for f in (gl, rays)]
        assert (brown[0] & brown[1]).sum() > 0.85 * (brown[0] | brown[1]).sum()


def test_gl_works_is_false_if_the_probe_fails(monkeypatch):
    monkeypatch.setattr(render, "_PROBE", "raise SystemExit(3)")
    assert not render.gl_works.__wrapped__()
    monkeypatch.setattr(render, "_PROBE", "pass")
    assert render.gl_works.__wrapped__()
