"""Writes episodes as one self-contained HTML page that shows them in 3-D.

The page draws the shapes and poses of `env.scene` in WebGL 2 with its own code; it loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarl.core.env import SceneEnv
from metarl.core.machine.files import write_atomically
from metarl.core.messages import printable
from metarl.reporting.episode import Episode

_TEMPLATE = Path(__file__).with_name("replay.html")


def write_replay(
    path: Path,
    env: SceneEnv,
    panels: Sequence[Sequence[Episode]],
    *,
    title: str,
    camera: tuple[float, float] | None = None,
) -> None:
    """Writes a replay, complete or not at all.

    200 frames of an Ant take 60 kB, the page itself 28 kB.

    Args:
        path: Path of the page; folders are made.
        env: Describes the scenes of the episodes that name no environment of their own.
        panels: A row for each task; each of its episodes gets a button.
        title: Title of the page.
        camera: Azimuth and elevation of the first view [degrees].
    """
    worlds: dict[str, int] = {}
    tasks = []
    for row in panels:
        episodes = []
        for episode in row:
            scene = episode.drawn_by(env).scene(episode.states, episode.task, camera)
            index = worlds.setdefault(_json(_pack_world(scene)), len(worlds))
            episodes.append({"world": index, **_pack_motion(scene, episode)})
        tasks.append({"words": row[0].task_text, "episodes": episodes})
    fps, stride = panels[0][0].playback
    # worlds are JSON already
    data = f'{{"rate":{fps * stride},"worlds":[{",".join(worlds)}],"tasks":{_json(tasks)}}}'
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _fill_template(title, data))


_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
"""The code of the page; its data stand in an element of another type."""


def _fill_template(title: str, data: str) -> str:
    """Returns the page; a browser runs its own script, and no other, and loads nothing."""
    page = _TEMPLATE.read_text(encoding="utf-8")
    code = _SCRIPT.findall(page)[0]
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    parts = {"POLICY": f"script-src 'sha256-{digest}'", "DATA": data}
    parts["TITLE"] = html.escape(printable(title), quote=True)
    # in one pass, because a title may be "@DATA@" too
    return re.sub(f"@({'|'.join(parts)})@", lambda match: parts[match[1]], page)


def _pack_world(scene: Mapping[str, Any]) -> dict[str, Any]:
    """Packs the parts of a scene that do not move; the episodes of one task share them."""
    hfields = [
        {**field, "heights": _pack(np.asarray(field["heights"]) * 65535, "<u2")}
        for field in scene["hfields"]
    ]
    shared = {name: scene[name] for name in ("geoms", "radius", "planar", "marker")}
    return {**shared, "hfields": hfields}


def _pack_motion(scene: Mapping[str, Any], episode: Episode) -> dict[str, Any]:
    """Packs the poses of an episode, its rewards and its caption.

    Positions relative to the root take 16 bits of their largest value, unit quaternions 16 bits.
    """
    root = np.asarray(scene["root"], dtype=float)
    near = scene["position"] - root[:, None]
    reach = max(float(np.abs(near).max(initial=0.0)), 1e-9)
    camera = dict(scene["camera"])
    return {
        "label": ", ".join(filter(None, [episode.name, episode.stage])),
        "frames": len(root),
        "bodies": near.shape[1],
        "root": _pack(root, "<f4"),
        "reach": reach,
        "position": _pack(near / reach * 32767, "<i2"),
        "rotation": _pack(scene["rotation"] * 32767, "<i2"),
        "reward": _pack(episode.reward, "<f4"),
        "lookat": _pack(camera.pop("lookat"), "<f4"),
        "camera": camera,
    }


def _pack(values: np.ndarray, kind: str) -> str:
    """Encodes an array's numbers, row by row, in base64; rounds them for an integer type."""
    values = np.asarray(values)
    if np.dtype(kind).kind != "f":
        values = np.rint(values)
    return base64.b64encode(values.astype(kind).tobytes()).decode()


def _json(tree: Any) -> str:
    """Writes JSON that cannot end the script element it stands in."""
    text = json.dumps(tree, allow_nan=False, separators=(",", ":"), default=_to_list)
    return text.replace("<", "\\u003c")


def _to_list(value: Any) -> Any:
    return np.asarray(value).tolist()
