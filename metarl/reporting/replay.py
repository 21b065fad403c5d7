"""Recorded episodes -> one self-contained HTML page that shows them in 3-D: orbit, zoom, scrub, before and after.

The page draws the shapes and poses of `env.scene` by WebGL 2 with code of its own; it loads nothing. Knows no policy and no
simulator.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from metarl.core.files import write_atomically
from metarl.core.tasks import describe_task
from metarl.reporting.episode import Episode, check_panels, playback

_TEMPLATE = Path(__file__).with_name("replay.html")


class Staged(Protocol):
    """What a replay needs of an environment: `spec.name`, `spec.dt`, `spec.tasks.variables`, and `scene`."""

    @property
    def spec(self):
        """See `BatchEnv.spec`."""

    def scene(
        self, states: np.ndarray, task: np.ndarray, camera: tuple[float, float] | None = None
    ) -> dict[str, Any]:
        """Shapes, poses, goal and camera of snapshots (L, n) of task (D,); `envs/rendering/scene.py` says which."""


def write_replay(
    path: Path,
    env: Staged,
    panels: Sequence[Sequence[Episode]],
    *,
    title: str = "",
    camera: tuple[float, float] | None = None,
) -> Path:
    """Writes a replay, complete or not at all. 200 frames of an Ant take 60 kB, the page itself 28 kB.

    Args:
        path: Where to; folders are made.
        env: Says what the episodes look like.
        panels: One row for each task, its episodes behind a button each.
        title: Of the page.
        camera: Azimuth and elevation of the first view [degrees].

    Returns:
        The path.

    Raises:
        ValueError: There is nothing to show, or states and rewards disagree.
    """
    check_panels(panels)
    fps, stride = playback(env.spec.dt)
    worlds: dict[str, int] = {}
    tasks = []
    for row in panels:
        episodes = []
        for episode in row:
            scene = env.scene(episode.states, episode.task, camera)
            index = worlds.setdefault(_json(_world(scene)), len(worlds))
            episodes.append({"world": index, **_played(scene, episode)})
        words = row[0].task_words or describe_task(env.spec.tasks.variables, row[0].task)
        tasks.append({"words": words, "episodes": episodes})
    # worlds are JSON already
    data = f'{{"rate":{fps * stride},"worlds":[{",".join(worlds)}],"tasks":{_json(tasks)}}}'
    page = _TEMPLATE.read_text(encoding="utf-8")
    page = page.replace("@TITLE@", html.escape(title or env.spec.name), 1)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page.replace("@DATA@", data, 1))
    return path


def _world(scene: Mapping[str, Any]) -> dict[str, Any]:
    """What does not move; episodes of one task share it."""
    hfields = [
        {**field, "heights": _packed(np.asarray(field["heights"]) * 65535, "<u2")}
        for field in scene["hfields"]
    ]
    kept = {name: scene[name] for name in ("geoms", "radius", "planar", "marker")}
    return {**kept, "hfields": hfields}


def _played(scene: Mapping[str, Any], episode: Episode) -> dict[str, Any]:
    """What moves: positions from the root on in 16 bits of the robot's size, unit quaternions in 16 bits."""
    root = np.asarray(scene["root"], dtype=float)
    near = scene["position"] - root[:, None]
    reach = max(float(np.abs(near).max(initial=0.0)), 1e-9)
    camera = dict(scene["camera"])
    return {
        "label": episode.label,
        "frames": len(root),
        "bodies": near.shape[1],
        "root": _packed(root, "<f4"),
        "reach": reach,
        "position": _packed(near / reach * 32767, "<i2"),
        "rotation": _packed(scene["rotation"] * 32767, "<i2"),
        "reward": _packed(episode.reward, "<f4"),
        "lookat": _packed(camera.pop("lookat"), "<f4"),
        "camera": camera,
    }


def _packed(values: np.ndarray, kind: str) -> str:
    """Base64 of an array's numbers, row by row; whole numbers are rounded."""
    values = np.asarray(values)
    if np.dtype(kind).kind != "f":
        values = np.rint(values)
    return base64.b64encode(values.astype(kind).tobytes()).decode()


def _json(tree: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(tree, allow_nan=False, separators=(",", ":"), default=_plain)
    return text.replace("<", "\\u003c")


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist()
