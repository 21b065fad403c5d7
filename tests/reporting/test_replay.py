"""The replay's page: what it holds is what was recorded, it loads nothing, and a browser can run it."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from metarl.core.tasks import Variable
from metarl.envs.locomotion.robots import ANT
from metarl.envs.rendering.marker import Marker
from metarl.envs.rendering.scene import mujoco_scene
from metarl.reporting.episode import Episode
from metarl.reporting.replay import write_replay

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class AntScene:
    """Scenes of Ants whose task is a target."""

    def __init__(self, name="ant", dt=0.05):
        goal = Variable("goal", "m", -3.0, 3.0)
        self.spec = SimpleNamespace(name=name, dt=dt, tasks=SimpleNamespace(variables=(goal, goal)))
        self.model = ANT.model()

    def scene(self, states, task, camera=None):
        return mujoco_scene(self.model, states, Marker("target", tuple(task)), camera)


def episode(frames=200, task=(2.0, 1.0), label="before adaptation", far=20.0, **settings):
    """An Ant that tumbles along a line of `far` metres."""
    rng = np.random.default_rng(frames)
    states = np.tile(ANT.model().qpos0, (frames, 1)) + rng.normal(0.0, 0.3, (frames, 15))
    states[:, 0] += np.linspace(0.0, far, frames)
    states[:, 3:7] /= np.linalg.norm(states[:, 3:7], axis=1, keepdims=True)
    return Episode(states, rng.normal(size=frames), np.array(task), label, **settings)


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


def written(tmp_path, panels, env=None, **options):
    path = write_replay(tmp_path / "videos" / "a.html", env or AntScene(), panels, **options)
    assert [p.name for p in path.parent.iterdir()] == ["a.html"]
    return path.read_text()


def numbers(text, kind, *shape):
    return np.frombuffer(base64.b64decode(text), dtype=kind).reshape(shape)


def test_poses_and_rewards_come_back_as_they_were_recorded(tmp_path):
    played, env = episode(), AntScene()
    data = json.loads(Page(written(tmp_path, [[played]], env)).data)
    assert data["rate"] == 20.0
    (row,) = data["tasks"]
    (found,) = row["episodes"]
    assert row["words"] == "goal 2 m, goal 1 m" and found["label"] == "before adaptation"
    size = found["frames"], found["bodies"]
    assert size == (200, 13)
    scene = env.scene(played.states, played.task)
    root = numbers(found["root"], "<f4", 200, 3)
    near = numbers(found["position"], "<i2", *size, 3) / 32767 * found["reach"]
    # 20 m away as exact as at the start: a thirtieth of a millimetre
    np.testing.assert_allclose(root[:, None] + near, scene["position"], atol=3e-5)
    rotation = numbers(found["rotation"], "<i2", *size, 4) / 32767
    np.testing.assert_allclose(rotation, scene["rotation"], atol=2e-5)
    np.testing.assert_allclose(numbers(found["reward"], "<f4", 200), played.reward, rtol=1e-6)


def test_200_frames_of_an_ant_take_less_than_112_kB(tmp_path):
    assert 50_000 < len(written(tmp_path, [[episode()]]).encode()) < 112_000


def test_what_does_not_move_is_written_once_for_every_task(tmp_path):
    panels = [
        [episode(3, (1.0, 0.0)), episode(5, (1.0, 0.0), "after")],
        [episode(4, (0.0, 1.0)), episode(4, (0.0, 1.0), "after")],
    ]
    data = json.loads(Page(written(tmp_path, panels)).data)
    assert [[e["world"] for e in row["episodes"]] for row in data["tasks"]] == [[0, 0], [1, 1]]
    assert [world["marker"]["vector"] for world in data["worlds"]] == [[1.0, 0.0], [0.0, 1.0]]


def test_heights_of_a_terrain_come_back_to_16_bits(tmp_path):
    heights = np.random.default_rng(0).uniform(size=6).astype(np.float32)

    class Hilly(AntScene):
        def scene(self, states, task, camera=None):
            field = {"rows": 2, "columns": 3, "size": [1.0, 2.0, 3.0, 0.1], "heights": heights}
            return {**super().scene(states, task, camera), "hfields": [field]}

    data = json.loads(Page(written(tmp_path, [[episode(2)]], Hilly())).data)
    (field,) = data["worlds"][0]["hfields"]
    found = numbers(field["heights"], "<u2", 6) / 65535
    np.testing.assert_allclose(found, heights, atol=1e-5)
    assert (field["rows"], field["columns"], field["size"]) == (2, 3, [1.0, 2.0, 3.0, 0.1])


def test_the_page_loads_nothing(tmp_path):
    text = written(tmp_path, [[episode(3)]])
    page = Page(text)
    assert not {"src", "href"} & {name for name, _ in page.attributes}
    assert not re.search(r"https?://|@import|fetch\(|XMLHttpRequest|WebSocket|import\(", text)


def test_words_cannot_leave_their_place(tmp_path):
    evil = "</script><script>alert(1)//<!--"
    text = written(tmp_path, [[episode(2, label=evil, task_words=evil)]], title=evil)
    page = Page(text)
    assert page.title == evil and text.count("<script") == 2
    row = json.loads(page.data)["tasks"][0]
    assert row["words"] == evil and row["episodes"][0]["label"] == evil


def test_a_slow_environment_is_played_at_20_steps_a_second(tmp_path):
    assert (
        json.loads(Page(written(tmp_path, [[episode(2)]], AntScene(dt=1.0))).data)["rate"] == 20.0
    )


def test_what_cannot_be_shown_leaves_no_file(tmp_path):
    for panels in ([], [[]], [[Episode(np.zeros((3, 15)), np.zeros(2), np.zeros(2), "lame")]]):
        with pytest.raises(ValueError, match="at least one|3 states and 2 rewards"):
            write_replay(tmp_path / "a.html", AntScene(), panels)
    broken = Episode(np.full((2, 15), np.nan), np.zeros(2), np.zeros(2), "broken")
    with pytest.raises(ValueError, match="state 0 of 2 is not finite"):
        write_replay(tmp_path / "a.html", AntScene(), [[broken]])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_a_browser_draws_the_moment_that_is_asked_for(tmp_path):
    played = [episode(4), episode(6, label="after 1 adaptation")]
    path = write_replay(tmp_path / "a.html", AntScene(), [played])
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
