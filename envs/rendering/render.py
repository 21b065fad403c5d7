"""Draws recorded states of a robot: with GL where a context opens, else with a ray caster.

Both back ends use the same camera and show the same marker. Lengths are metres in the world frame;
images have row 0 at the top.
"""

from __future__ import annotations

import copy
import functools
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Literal

import mujoco
import numpy as np

from metarl.envs.rendering.camera import (
    MarkerPart,
    Shot,
    check_states,
    find_marker_level,
    outline,
    place_marker,
    plan_shot,
)
from metarl.envs.rendering.heightfield import crop_to_period, find_relief, place_copies, sky_color
from metarl.envs.rendering.marker import Marker
from metarl.envs.rendering.ray_caster import FLOOR_DARK, FLOOR_LIGHT, Patch, RayCaster

Backend = Literal["auto", "gl", "rays"]

MARKER_COLOR = np.array([0.05, 0.66, 0.38], dtype=np.float32)
"""Red, green, blue in [0, 1] of every goal; nothing else in a scene is green."""

_FAR = 60.0
"""Half width of an endless track [m]."""

_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size="1"/></worldbody></mujoco>')
renderer = mujoco.Renderer(model, 16, 16)
renderer.update_scene(mujoco.MjData(model))
renderer.render()
"""


@functools.cache
def gl_works() -> bool:
    """Returns whether an off-screen GL context opens here.

    A child process tries it, because a missing driver can end the process, and because MUJOCO_GL
    may name a library that does not work.
    """
    command = [sys.executable, "-c", _PROBE]
    # MuJoCo writes its log into the working directory
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            return False
    return done.returncode == 0


def render_mujoco(
    model: mujoco.MjModel,
    states: np.ndarray,
    marker: Marker,
    *,
    width: int,
    height: int,
    camera: tuple[float, float] | None = None,
    backend: Backend = "auto",
) -> Iterator[np.ndarray]:
    """Draws an episode of a MuJoCo robot.

    Args:
        model: The robot in its scene; not changed.
        states: qpos snapshots (L, nq), L >= 1.
        marker: The goal.
        width: Width of a frame [pixels].
        height: Height of a frame [pixels].
        camera: Azimuth and elevation as in `Shot` [degrees]; by default those of `plan_shot`.
        backend: "auto" takes GL where it works (`gl_works`), else the ray caster.

    Yields:
        L frames (height, width, 3) uint8.

    Raises:
        ValueError: The states are not finite or not (L, nq).
    """
    states = check_states(model, states)
    if backend == "auto":
        backend = "gl" if gl_works() else "rays"
    shot = plan_shot(model, states, marker, camera)
    draw = _draw_with_gl if backend == "gl" else _draw_with_rays
    return draw(model, states, marker, shot, (width, height))


def _pose(model: mujoco.MjModel, data: mujoco.MjData, qpos: np.ndarray) -> None:
    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_camlight(model, data)


def _draw_with_rays(
    model: mujoco.MjModel, states: np.ndarray, marker: Marker, shot: Shot, size: tuple[int, int]
) -> Iterator[np.ndarray]:
    data, axes, relief = mujoco.MjData(model), shot.axes(), find_relief(model)
    caster = RayCaster(model, axes, *size)
    for row, qpos in enumerate(states):
        _pose(model, data, qpos)
        level = find_marker_level(model, relief, marker, shot, row)
        patches = [
            Patch(
                outline(part, axes[0]),
                MARKER_COLOR,
                part.opacity,
                bool(part.normal[2] < 0.9) or relief is not None,
            )
            for part in place_marker(marker, shot, row, level)
        ]
        eye = shot.lookat[row] - shot.distance * axes[2]
        yield caster.frame(data, eye, shot.root[row], shot.radius, patches)


def _draw_with_gl(
    model: mujoco.MjModel, states: np.ndarray, marker: Marker, shot: Shot, size: tuple[int, int]
) -> Iterator[np.ndarray]:
    relief, copies = find_relief(model), place_copies(model, shot.root)
    model = _repaint(crop_to_period(model))
    data = mujoco.MjData(model)
    model.vis.global_.offwidth, model.vis.global_.offheight = size
    camera = mujoco.MjvCamera()
    camera.distance, camera.azimuth, camera.elevation = shot.distance, shot.azimuth, shot.elevation
    with mujoco.Renderer(model, size[1], size[0]) as renderer:
        for row, qpos in enumerate(states):
            _pose(model, data, qpos)
            camera.lookat[:] = shot.lookat[row]
            renderer.update_scene(data, camera)
            _copy_ground(renderer.scene, copies)
            level = find_marker_level(model, relief, marker, shot, row)
            for part in place_marker(marker, shot, row, level):
                _add_part(renderer.scene, part)
            yield renderer.render().copy()


def _repaint(model: mujoco.MjModel) -> mujoco.MjModel:
    """Returns a copy with the ray caster's sky and floor: squares of 1 m, and endless tracks.

    The floor does not mirror, because a mirrored goal looks like a second one.
    """
    model = copy.copy(model)
    model.mat_reflectance[:] = 0.0
    model.hfield_size[model.hfield_nrow == 2, 1] = _FAR
    for sky in np.flatnonzero(model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX):
        _paint_sky(model, int(sky))
    kinds = (int(mujoco.mjtGeom.mjGEOM_PLANE), int(mujoco.mjtGeom.mjGEOM_HFIELD))
    planes = np.flatnonzero(np.isin(model.geom_type, kinds))
    model.geom_rgba[planes] = 1.0
    for material in set(model.geom_matid[planes].tolist()) - {-1}:
        texture = int(model.mat_texid[material, mujoco.mjtTextureRole.mjTEXROLE_RGB])
        if texture < 0 or model.tex_nchannel[texture] != 3:
            continue
        start = model.tex_adr[texture]
        end = start + 3 * model.tex_width[texture] * model.tex_height[texture]
        pixels = model.tex_data[start:end].reshape(-1, 3)
        bright = pixels.sum(axis=1, dtype=int)
        first = bright < bright.mean()  # a square is light where the ray caster's is
        pixels[:] = 255.0 * np.where(first[:, None], FLOOR_LIGHT, FLOOR_DARK)
        model.mat_rgba[material] = 1.0
        model.mat_texuniform[material] = True
        model.mat_texrepeat[material] = 1.0  # a texture of 2 x 2 squares covers 2 m x 2 m
    return model


def _paint_sky(model: mujoco.MjModel, texture: int) -> None:
    """Paints the six faces of a sky, one below the other: right, left, up, down, front, back."""
    width, channels = int(model.tex_width[texture]), int(model.tex_nchannel[texture])
    pixels = model.tex_data[model.tex_adr[texture] :][: 6 * width * width * channels]
    faces = pixels.reshape(6, width, width, channels)
    row = np.arange(width) + 0.5
    across, above = np.meshgrid(2.0 * row / width - 1.0, 1.0 - 2.0 * row / width)
    wall = above / np.sqrt(1.0 + across**2 + above**2)
    lid = 1.0 / np.sqrt(1.0 + across**2 + above**2)
    for face, up in zip(faces, (wall, wall, lid, -lid, wall, wall), strict=True):
        face[..., :3] = 255.0 * sky_color(up)


def _copy_ground(scene: mujoco.MjvScene, offsets: np.ndarray) -> None:
    """Adds copies of the first heightfield of a scene at offsets (n, 2) [m]."""
    if not len(offsets):
        return
    kind = int(mujoco.mjtGeom.mjGEOM_HFIELD)
    ground = next(geom for geom in scene.geoms[: scene.ngeom] if geom.type == kind)
    for offset in offsets:
        geom = scene.geoms[scene.ngeom]
        place = ground.pos + np.array([*offset, 0.0])
        mujoco.mjv_initGeom(geom, kind, ground.size, place, ground.mat.ravel(), ground.rgba)
        geom.dataid, geom.matid, geom.texcoord = ground.dataid, ground.matid, ground.texcoord
        geom.emission, geom.specular = ground.emission, ground.specular
        geom.shininess, geom.reflectance = ground.shininess, ground.reflectance
        scene.ngeom += 1


def _add_part(scene: mujoco.MjvScene, part: MarkerPart) -> None:
    geom = scene.geoms[scene.ngeom]
    kinds = mujoco.mjtGeom
    kind = {
        "arrow": kinds.mjGEOM_ARROW,
        "disc": kinds.mjGEOM_CYLINDER,
        "post": kinds.mjGEOM_CAPSULE,
    }
    color = np.append(MARKER_COLOR, part.opacity).astype(np.float32)
    zeros = np.zeros(3)
    mujoco.mjv_initGeom(geom, kind[part.kind], zeros, zeros, np.zeros(9), color)
    start, end = part.start, part.end
    if part.kind == "disc":
        start, end = part.start - 0.004 * part.normal, part.start + 0.004 * part.normal
    mujoco.mjv_connector(geom, kind[part.kind], 0.5 * part.width, start, end)
    if part.kind == "arrow":
        geom.size[2] *= 2.0  # the arrow of mjv_connector has half the length (MuJoCo 4.0)
    geom.emission = 0.4
    scene.ngeom += 1
