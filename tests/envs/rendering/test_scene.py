"""Scenes against MuJoCo's own poses of the geoms, heights by hand, and the format of a scene."""

import mujoco
import numpy as np
import pytest

from metarl.envs.locomotion.terrain import KINDS
from metarl.envs.registry import make
from metarl.envs.rendering.marker import Marker
from metarl.envs.rendering.point_mass import plane_scene
from metarl.envs.rendering.scene import mujoco_scene
from metarl.envs.robots.arms.arm import ARM
from metarl.envs.robots.included.gymnasium import ANT, HALF_CHEETAH

ARROW = Marker("arrow", (1.0, 0.0))


def matrix(quaternion):
    found = np.empty(9)
    mujoco.mju_quat2Mat(found, np.asarray(quaternion, dtype=float))
    return found.reshape(3, 3)


def place(scene, frame, geom):
    """Position (3,) and orientation (3, 3) of a geom in the world, as a viewer computes them."""
    position, rotation = np.array(geom["position"]), matrix(geom["rotation"])
    if geom["body"] < 0:
        return position, rotation
    turn = matrix(scene["rotation"][frame, geom["body"]])
    return scene["position"][frame, geom["body"]] + turn @ position, turn @ rotation


def random_states(model, frames, seed=0):
    """Random states qpos (frames, nq)."""
    rng = np.random.default_rng(seed)
    states = model.qpos0 + rng.normal(0.0, 0.7, (frames, model.nq))
    for j in np.flatnonzero(model.jnt_type == mujoco.mjtJoint.mjJNT_FREE):
        start = model.jnt_qposadr[j] + 3
        quaternion = states[:, start : start + 4]
        quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
    return states


@pytest.mark.parametrize("robot", [ANT, HALF_CHEETAH], ids=lambda robot: robot.name)
def test_scene_places_every_geom_as_mujoco(robot):
    model = robot.model()
    states = random_states(model, 5)
    scene = mujoco_scene(model, states, ARROW)
    assert len(scene["geoms"]) == model.ngeom
    data = mujoco.MjData(model)
    for frame, qpos in enumerate(states):
        data.qpos[:] = qpos
        mujoco.mj_forward(model, data)
        for index, geom in enumerate(scene["geoms"]):
            position, rotation = place(scene, frame, geom)
            np.testing.assert_allclose(position, data.geom_xpos[index], atol=1e-12)
            np.testing.assert_allclose(rotation.ravel(), data.geom_xmat[index], atol=1e-12)
    np.testing.assert_array_equal(scene["root"][:, 0], states[:, 0])
    assert scene["planar"] == robot.planar
    assert scene["camera"]["lookat"].shape == (5, 3)


EVERYTHING = """
<mujoco>
  <asset>
    <hfield name="hill" nrow="3" ncol="5" size="2 1 4 0.1"
      elevation="0 0 0 0 0  0 0 1 0 0  0 0 0 0 0"/>
    <mesh name="wedge" vertex="0 0 0  1 0 0  0 2 0  0 0 3"/>
    <material name="red" rgba="1 0 0 1"/>
  </asset>
  <worldbody>
    <geom type="plane" size="9 9 1" pos="0 0 -0.5"/>
    <geom type="hfield" hfield="hill" pos="3 0 0.25"/>
    <body name="post" pos="1 2 3" euler="0 0 90">
      <geom type="box" size="1 2 3" pos="0.5 0 0"/>
    </body>
    <body pos="0 0 5"><freejoint/>
      <geom type="sphere" size="0.3" material="red"/>
      <geom type="capsule" size="0.1 0.4" material="red" rgba="0.1 0.2 0.3 0.5"/>
      <geom type="cylinder" size="0.2 0.5"/>
      <geom type="ellipsoid" size="0.1 0.2 0.3"/>
      <geom type="mesh" mesh="wedge" pos="0 0 1" euler="30 40 50"/>
      <geom type="sphere" size="9" group="3"/>
      <geom type="sphere" size="9" rgba="1 1 1 0"/>
    </body>
  </worldbody>
</mujoco>
"""


@pytest.fixture(scope="module")
def everything():
    return mujoco.MjModel.from_xml_string(EVERYTHING)


def test_scene_has_mujoco_sizes_without_hidden_geoms(everything):
    geoms = mujoco_scene(everything, everything.qpos0[None], ARROW)["geoms"]
    kinds = ["plane", "hfield", "box", "sphere", "capsule", "cylinder", "ellipsoid", "box"]
    assert [geom["kind"] for geom in geoms] == kinds
    sizes = [[], [0], [1, 2, 3], [0.3], [0.1, 0.4], [0.2, 0.5], [0.1, 0.2, 0.3]]
    assert [geom["size"] for geom in geoms][:7] == sizes
    assert [geom["body"] for geom in geoms] == [-1] * 3 + [0] * 5
    assert geoms[3]["color"] == [1.0, 0.0, 0.0, 1.0]
    np.testing.assert_allclose(geoms[4]["color"], [0.1, 0.2, 0.3, 0.5], rtol=1e-6)


def test_fixed_geom_of_a_rotated_body_is_in_the_world(everything):
    scene = mujoco_scene(everything, everything.qpos0[None], ARROW)
    position, rotation = place(scene, 0, scene["geoms"][2])
    np.testing.assert_allclose(position, [1.0, 2.5, 3.0], atol=1e-12)
    np.testing.assert_allclose(rotation @ [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], atol=1e-12)


def test_mesh_is_shown_as_its_tight_bounding_box(everything):
    scene = mujoco_scene(everything, everything.qpos0[None], ARROW)
    position, rotation = place(scene, 0, scene["geoms"][7])
    data = mujoco.MjData(everything)
    mujoco.mj_forward(everything, data)
    mesh = np.flatnonzero(everything.geom_type == mujoco.mjtGeom.mjGEOM_MESH)[0]
    corners = everything.mesh_vert @ data.geom_xmat[mesh].reshape(3, 3).T + data.geom_xpos[mesh]
    inside = np.abs((corners - position) @ rotation) / scene["geoms"][7]["size"]
    np.testing.assert_allclose(inside.max(axis=0), 1.0, atol=1e-5)


def test_heightfield_has_the_heights_and_size(everything):
    (field,) = mujoco_scene(everything, everything.qpos0[None], ARROW)["hfields"]
    assert (field["rows"], field["columns"]) == (3, 5)
    np.testing.assert_allclose(field["size"], [2.0, 1.0, 4.0, 0.1])
    heights = np.zeros((3, 5))
    heights[1, 2] = 1.0
    np.testing.assert_array_equal(field["heights"].reshape(3, 5), heights)


@pytest.mark.parametrize(
    ("point", "height"),
    # the summit is 4 m above (3, 0), on a field at 0.25; half way down along x it is 2 m high
    [((3.0, 0.0), 4.25), ((3.5, 0.0), 2.25), ((1.5, 0.0), 0.25), ((-3.0, 0.0), -0.5)],
)
def test_target_stands_on_the_ground_below_it(everything, point, height):
    scene = mujoco_scene(everything, everything.qpos0[None], Marker("target", point))
    assert scene["marker"]["kind"] == "target"
    np.testing.assert_allclose(scene["marker"]["position"], [*point, height], atol=1e-6)


def test_copies_of_a_periodic_ground_follow_the_path():
    env = make("ant-terrain", 1)
    numbers = np.array([KINDS.index("rough"), 1.0, 0.0])
    env.set_tasks(numbers[None], 1)
    states = np.tile(env.model.qpos0, (3, 1))
    (ground,) = [geom for geom in env.scene(states, numbers)["geoms"] if geom["kind"] == "hfield"]
    states[:, 0], states[:, 1] = (0.0, 30.0, 60.0), (0.0, -2.0, -30.0)
    scene = env.scene(states, numbers)
    grounds = [geom for geom in scene["geoms"] if geom["kind"] == "hfield"]
    # 15 m around the path: from -15 m to 75 m, and from -45 m to 15 m
    places = {tuple(geom["position"][:2]) for geom in grounds}
    assert places == {(x, y) for x in (0.0, 40.0, 80.0) for y in (-40.0, 0.0)}
    assert len(grounds) == 6 and len(scene["hfields"]) == 1
    assert all({**geom, "position": ground["position"]} == ground for geom in grounds)
    (field,) = scene["hfields"]
    heights = np.reshape(field["heights"], (field["rows"], field["columns"])) * field["size"][2]
    x, y = (np.linspace(-half, half, heights.shape[0]) for half in field["size"][:2])
    expected = env._world.ground.height(*(axis.ravel()[None] for axis in np.meshgrid(x, y)))
    assert field["size"][:2] == [20.0, 20.0]
    np.testing.assert_allclose(heights.ravel() + ground["position"][2], expected[0], atol=1e-6)


def test_scene_checks_states_and_takes_a_camera():
    model = ANT.model()
    with pytest.raises(ValueError, match=r"states must be \(L, 15\)"):
        mujoco_scene(model, np.zeros((2, 3)), ARROW)
    with pytest.raises(ValueError, match="state 1 of 2 is not finite"):
        mujoco_scene(model, np.stack([model.qpos0, model.qpos0 * np.nan]), ARROW)
    camera = mujoco_scene(model, model.qpos0[None], ARROW, (12.0, -34.0))["camera"]
    assert (camera["azimuth"], camera["elevation"]) == (12.0, -34.0)


def test_point_in_the_plane_is_a_ball_at_its_positions():
    states = np.array([[0.0, 0.0], [0.3, -0.2]])
    scene = plane_scene(states, Marker("target", (0.4, 0.1)))
    ball = next(geom for geom in scene["geoms"] if geom["kind"] == "sphere")
    for frame, state in enumerate(states):
        np.testing.assert_array_equal(place(scene, frame, ball)[0], [*state, ball["size"][0]])
    assert scene["marker"]["position"] == [0.4, 0.1, 0.0]


@pytest.mark.parametrize("name", ["ant-goal", "half-cheetah-vel", "navigation-2d"])
def test_envs_make_scenes_of_their_snapshots(name):
    env = make(name, threads=1)
    tasks = env.spec.tasks.sample(np.random.default_rng(0), 2)
    env.set_tasks(tasks, 1)
    env.reset([np.random.default_rng(i) for i in range(2)])
    states = env.snapshot()[1][None]
    scene = env.scene(states, tasks[1], camera=(30.0, -20.0))
    marker = env.marker(tasks[1])
    assert (
        tuple(scene["marker"]["vector"]) == marker.vector and scene["marker"]["kind"] == marker.kind
    )
    assert scene["camera"]["azimuth"] == 30.0 and len(scene["position"]) == 1
    env.close()


def test_point_in_space_is_at_its_place_in_the_scene():
    model = ARM.model()
    scene = mujoco_scene(model, model.qpos0[None], Marker("point", (0.1, -0.2, 0.6)))
    assert scene["marker"]["position"] == [0.1, -0.2, 0.6] and not scene["planar"]
    assert 0.01 < scene["marker"]["size"] < 0.05
