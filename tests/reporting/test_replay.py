"""The page of a replay holds the recorded numbers, loads nothing, and runs in a browser."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from metarl.envs.rendering.marker import Marker
from metarl.envs.rendering.scene import mujoco_scene
from metarl.envs.robots.included.gymnasium import ANT
from metarl.reporting.episode import Episode
from metarl.reporting.replay import write_replay

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class AntScene:
    """Scenes of Ants whose task is a target."""

    def __init__(self):
        self.model = ANT.model()

    def scene(self, states, task, camera=None):
        return mujoco_scene(self.model, states, Marker("target", tuple(task)), camera)


def episode(frames=200, task=(2.0, 1.0), stage="before adaptation", text="goal", dt=0.05):
    """An Ant that tumbles along a line of 20 m."""
    rng = np.random.default_rng(frames)
    states = np.tile(ANT.model().qpos0, (frames, 1)) + rng.normal(0.0, 0.3, (frames, 15))
    states[:, 0] += np.linspace(0.0, 20.0, frames)
    states[:, 3:7] /= np.linalg.norm(states[:, 3:7], axis=1, keepdims=True)
    return Episode(states, rng.normal(size=frames), np.array(task), text, stage, dt)


class Page(HTMLParser):
    """Collects attributes, the JSON of the data, the title, and checks that tags nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.data, self.title = [], [], "", ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in ("meta", "input"):
            self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, text):
        if self.open and self.open[-1][1].get("id") == "data":
            self.data += text
        if self.open and self.open[-1][0] == "title":
            self.title += text


def write(tmp_path, panels, env=None, title="ant"):
    """The text of the page."""
    path = tmp_path / "videos" / "a.html"
    write_replay(path, env or AntScene(), panels, title=title)
    assert [p.name for p in path.parent.iterdir()] == ["a.html"]
    return path.read_text()


def numbers(text, kind, *shape):
    return np.frombuffer(base64.b64decode(text), dtype=kind).reshape(shape)


def test_replay_holds_the_recorded_poses_and_rewards(tmp_path):
    played, env = episode(), AntScene()
    data = json.loads(Page(write(tmp_path, [[played]], env)).data)
    assert data["rate"] == 20.0
    (row,) = data["tasks"]
    (found,) = row["episodes"]
    assert row["words"] == "goal" and found["label"] == "before adaptation"
    size = found["frames"], found["bodies"]
    assert size == (200, 13)
    scene = env.scene(played.states, played.task)
    root = numbers(found["root"], "<f4", 200, 3)
    near = numbers(found["position"], "<i2", *size, 3) / 32767 * found["reach"]
    # a thirtieth of a millimetre, 20 m away as at the start
    np.testing.assert_allclose(root[:, None] + near, scene["position"], atol=3e-5)
    rotation = numbers(found["rotation"], "<i2", *size, 4) / 32767
    np.testing.assert_allclose(rotation, scene["rotation"], atol=2e-5)
    np.testing.assert_allclose(numbers(found["reward"], "<f4", 200), played.reward, rtol=1e-6)


def test_200_frames_of_an_ant_take_less_than_112_kB(tmp_path):
    assert 50_000 < len(write(tmp_path, [[episode()]]).encode()) < 112_000


def test_fixed_parts_are_written_once_a_task(tmp_path):
    panels = [
        [episode(3, (1.0, 0.0)), episode(5, (1.0, 0.0), "after")],
        [episode(4, (0.0, 1.0)), episode(4, (0.0, 1.0), "after")],
    ]
    data = json.loads(Page(write(tmp_path, panels)).data)
    assert [[e["world"] for e in row["episodes"]] for row in data["tasks"]] == [[0, 0], [1, 1]]
    assert [world["marker"]["vector"] for world in data["worlds"]] == [[1.0, 0.0], [0.0, 1.0]]


def test_terrain_heights_have_16_bits(tmp_path):
    heights = np.random.default_rng(0).uniform(size=6).astype(np.float32)

    class HillyScene(AntScene):
        def scene(self, states, task, camera=None):
            field = {"rows": 2, "columns": 3, "size": [1.0, 2.0, 3.0, 0.1], "heights": heights}
            return {**super().scene(states, task, camera), "hfields": [field]}

    data = json.loads(Page(write(tmp_path, [[episode(2)]], HillyScene())).data)
    (field,) = data["worlds"][0]["hfields"]
    found = numbers(field["heights"], "<u2", 6) / 65535
    np.testing.assert_allclose(found, heights, atol=1e-5)
    assert (field["rows"], field["columns"], field["size"]) == (2, 3, [1.0, 2.0, 3.0, 0.1])


def test_replay_loads_nothing(tmp_path):
    text = write(tmp_path, [[episode(3)]])
    page = Page(text)
    assert not {"src", "href"} & {name for name, _ in page.attributes}
    assert not re.search(r"https?://|@import|fetch\(|XMLHttpRequest|WebSocket|import\(", text)


def test_replay_escapes_texts(tmp_path):
    evil = "</script><script>alert(1)//<!--"
    text = write(tmp_path, [[episode(2, stage=evil, text=evil)]], title=evil)
    page = Page(text)
    assert page.title == evil and text.count("<script") == 2
    row = json.loads(page.data)["tasks"][0]
    assert row["words"] == evil and row["episodes"][0]["label"] == evil


def test_title_may_be_a_placeholder(tmp_path):
    page = Page(write(tmp_path, [[episode(2, text="@TITLE@")]], title="@DATA@ @POLICY@\x1b"))
    assert page.title == "@DATA@ @POLICY@\\x1b"
    assert json.loads(page.data)["tasks"][0]["words"] == "@TITLE@"


def test_policy_of_the_page_allows_its_own_script_only(tmp_path):
    text = write(tmp_path, [[episode(2)]])
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    code = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        f"script-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]


def test_slow_env_is_played_at_20_steps_a_second(tmp_path):
    assert json.loads(Page(write(tmp_path, [[episode(2, dt=1.0)]])).data)["rate"] == 20.0


def test_replay_that_fails_leaves_no_file(tmp_path):
    failed = Episode(np.full((2, 15), np.nan), np.zeros(2), np.zeros(2), "goal", "before", 0.05)
    with pytest.raises(ValueError, match="state 0 of 2 is not finite"):
        write_replay(tmp_path / "a.html", AntScene(), [[failed]], title="ant")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_browser_draws_the_step_in_the_address(tmp_path):
    played = [episode(4), episode(6, stage="after 1 adaptation")]
    path = tmp_path / "a.html"
    write_replay(path, AntScene(), [played], title="ant")
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--use-angle=swiftshader"]
    command += ["--enable-unsafe-swiftshader", "--disable-background-networking"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000"]
    address = f"file://{path}#stage=1&step=3"
    done = subprocess.run(
        [*command, "--dump-dom", address], capture_output=True, text=True, timeout=240
    )
    shown = dict(re.findall(r'id="(\w+)"[^>]*>([^<]*)<', done.stdout))
    assert re.search(r'id="failed" hidden', done.stdout), shown.get("failed")
    assert shown["stage"] == "after 1 adaptation" and shown["step"] == "4 / 6"
    assert shown["sum"] == f"{played[1].reward[:4].sum():.1f}"
    assert shown["play"] == "Play"
