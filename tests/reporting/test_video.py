import re
import subprocess
from dataclasses import replace

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from metarl.core.env import NoPictures, as_pixels
from metarl.reporting import video
from metarl.reporting.episode import Episode, View
from metarl.reporting.video import write_video

SIZE = 64
VIEW = View(SIZE)


class ColorEnv:
    """Draws a state as a picture of one grey, and records the states."""

    def __init__(self):
        self.drawn = []

    def render(self, states, task, *, width, height):
        self.drawn.append(states.copy())
        return (np.full((height, width, 3), int(s[0]), dtype=np.uint8) for s in states)


def episode(values, stage="before adaptation", text="angle 1.57 rad", dt=0.05):
    states = np.array(values, dtype=float)[:, None]
    return Episode(states, np.ones(len(states)), np.array([1.57]), text, stage, dt)


def write(path, panels, env=None, view=VIEW):
    write_video(path, env or ColorEnv(), panels, view)
    return path


def decode(path):
    """All frames (n, height, width, 3) of a file, and the messages of the decoder."""
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-i",
        str(path),
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
    ]
    done = subprocess.run([*command, "-"], capture_output=True, check=True)
    messages = done.stderr.decode()
    width, height = map(int, re.search(r"Video: .*?, (\d+)x(\d+)", messages).groups())
    return np.frombuffer(done.stdout, dtype=np.uint8).reshape(-1, height, width, 3), messages


def held_frames(fps):
    return round(video.HOLD * fps)


def test_mp4_has_all_frames_in_size_and_speed(tmp_path):
    panels = [[episode([40, 80, 120]), episode([200] * 5)], [episode([10, 20])]]
    path = write(tmp_path / "deep" / "run.mp4", panels)
    shown, messages = decode(path)
    assert len(shown) == 5 + 2 + 2 * held_frames(20)
    assert shown.shape[2] == 2 * SIZE + 4
    assert shown.shape[1] > SIZE and shown.shape[1] % 2 == 0
    assert "h264" in messages and "yuv420p" in messages and "20 fps" in messages
    middle = shown[:, -SIZE // 2]
    for index, grey in enumerate([40, 80, 120]):
        np.testing.assert_allclose(middle[index, SIZE // 2], grey, atol=6)
    np.testing.assert_allclose(middle[4, -SIZE // 2], 200, atol=6)
    second = 5 + held_frames(20)
    np.testing.assert_allclose(middle[second, SIZE // 2], 10, atol=6)
    np.testing.assert_allclose(middle[second + 1, SIZE // 2], 20, atol=6)


def test_mp4_has_its_index_in_front(tmp_path):
    data = write(tmp_path / "a.mp4", [[episode([5] * 3)]]).read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_shorter_episode_freezes_and_is_marked_as_ended():
    row = [episode([90, 160]), episode([90, 90, 90, 90])]
    shape = (SIZE + video._strip_height(SIZE), 2 * SIZE + 4)
    shown = list(video._row_frames(ColorEnv(), row, VIEW, shape))[: -held_frames(20)]
    left = [frame[-SIZE:, :SIZE].astype(int) for frame in shown]
    assert len(shown) == 4
    assert (left[1] == 160).all()
    assert (left[2] != 160).all() and len(np.unique(left[2])) > 2, "faded, with a note"
    np.testing.assert_array_equal(left[2], left[3])
    np.testing.assert_array_equal(shown[3][:-SIZE, :SIZE], shown[1][:-SIZE, :SIZE])
    assert (shown[3][-SIZE:, -SIZE:] == 90).all(), "the longer one has no note"


def test_episode_is_drawn_by_the_environment_that_recorded_it():
    env, own = ColorEnv(), ColorEnv()
    row = [episode([10, 20]), replace(episode([30]), env=own)]
    shape = (SIZE + video._strip_height(SIZE), 2 * SIZE + 4)
    next(video._row_frames(env, row, VIEW, shape))
    assert [states[:, 0].tolist() for states in env.drawn] == [[10, 20]]
    assert [states[:, 0].tolist() for states in own.drawn] == [[30]]


def test_caption_shows_stage_task_return_and_step(monkeypatch):
    texts = []
    draw = video.ImageDraw.ImageDraw.text

    def spy(self, xy, text, *args, **kwargs):
        texts.append(text)
        return draw(self, xy, text, *args, **kwargs)

    monkeypatch.setattr(video.ImageDraw.ImageDraw, "text", spy)
    played = replace(episode([0, 0, 0], "after 1 step"), reward=np.array([1.5, -4.0, 10.0]))
    captions = [video._caption(played, step, 480) for step in range(3)]
    assert texts[:4] == ["return 1.5", "after 1 step", "step 1", "angle 1.57 rad"]
    assert texts[4::4] == ["return -2.5", "return 7.5"]
    assert captions[0].shape == (video._strip_height(480), 480, 3)
    half = 240
    assert (captions[0][:, half:] != captions[1][:, half:]).any()
    np.testing.assert_array_equal(captions[0][:, :half], captions[1][:, :half])


def test_caption_of_several_lines_is_drawn_in_one():
    played = replace(episode([0], text="go\nnorth"), stage="after\n1", name="rl2\nseed 0")
    shown = video._caption(played, 0, 480)
    assert shown.shape == (video._strip_height(480, has_name=True), 480, 3)


def test_caption_depends_on_the_task():
    own = video._caption(episode([1], text="go north"), 0, 480)
    other = video._caption(episode([1], text="go south"), 0, 480)
    assert (own != other).any()


def test_caption_shortens_a_long_stage():
    caption = video._caption(episode([1], stage="a very long stage " * 9), 0, 480)
    top = caption[: caption.shape[0] // 2]
    ink = np.abs(top.astype(int) - caption[0, 0]).sum(axis=(0, 2)) > 0
    gaps = np.diff(np.flatnonzero(ink))
    assert gaps.max() >= 10


def test_caption_has_a_line_for_the_policy(monkeypatch):
    texts = []
    draw = video.ImageDraw.ImageDraw.text

    def spy(self, xy, text, *args, **kwargs):
        texts.append((xy[1], text))
        return draw(self, xy, text, *args, **kwargs)

    monkeypatch.setattr(video.ImageDraw.ImageDraw, "text", spy)
    name = "teacher-student-observe-terrain, seed 3"
    caption = video._caption(replace(episode([1]), name=name), 0, 480)
    assert caption.shape[0] == video._strip_height(480, True) > video._strip_height(480)
    heights = {text: y for y, text in texts}
    assert heights[name] < heights["before adaptation"] < heights["angle 1.57 rad"]


def test_caption_gets_smaller_before_it_is_cut():
    strip = video.Image.new("RGB", (480, 72))
    draw = video.ImageDraw.Draw(strip)
    text = "a text of some words"
    (whole, large), (same, small) = (video._fit(draw, text, 26, room) for room in (400, 180))
    assert (whole, same) == (text, text) and small.size < large.size == 26
    cut, smallest = video._fit(draw, text * 9, 26, 180)
    assert cut.endswith("...") and smallest.size == 16


@pytest.mark.parametrize(
    ("dt", "fps", "stride"),
    [(0.05, 20.0, 1), (1.0, 20.0, 1), (1 / 60, 60.0, 1), (0.01, 50.0, 2), (0.002, 500 / 9, 9)],
)
def test_playback_is_real_time_where_one_can_follow(dt, fps, stride):
    assert episode([1], dt=dt).playback == (pytest.approx(fps), stride)


def test_fast_simulation_skips_steps_but_shows_the_last(tmp_path):
    env = ColorEnv()
    write(tmp_path / "a.mp4", [[episode(range(0, 80, 10), dt=0.01)]], env)
    assert env.drawn[0].ravel().tolist() == [0, 20, 40, 60, 70]
    every = ColorEnv()
    write(tmp_path / "b.mp4", [[episode(range(0, 80, 10), dt=0.1)]], every)
    assert len(every.drawn[0]) == 8


class FailingEnv(ColorEnv):
    def render(self, states, task, *, width, height):
        yield np.zeros((height, width, 3), dtype=np.uint8)
        raise RuntimeError("no picture")


def test_failed_picture_keeps_the_old_video(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="no picture"):
        write(path, [[episode([1, 2, 3])]], FailingEnv())
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert path.read_bytes() == b"old"


def test_failed_encoder_leaves_no_file_and_is_quoted(tmp_path, monkeypatch):
    monkeypatch.setitem(video._CODECS, ".mp4", "-r 0 -c:v libx264")
    with pytest.raises(OSError, match=r"(?s)status .*\.mp4: .*framerate"):
        write(tmp_path / "a.mp4", [[episode([1] * 50)]])
    assert list(tmp_path.iterdir()) == []


def test_encoder_that_ends_early_is_reported(tmp_path, monkeypatch):
    quitter = tmp_path / "ffmpeg"
    quitter.write_text("#!/bin/sh\necho no room >&2\nexit 7\n")
    quitter.chmod(0o755)
    monkeypatch.setattr(video.imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(quitter))
    folder = tmp_path / "videos"
    with pytest.raises(OSError, match="status 7 .*: no room"):
        write(folder / "a.mp4", [[episode([1] * 50)]])
    assert list(folder.iterdir()) == []


def test_gif_has_every_frame_and_repeats_forever(tmp_path):
    path = write(tmp_path / "a.gif", [[episode([40, 200, 120])]])
    with Image.open(path) as gif:
        assert gif.n_frames == 3 + held_frames(20) and gif.info["loop"] == 0
        greys = []
        for index in range(3):
            gif.seek(index)
            greys.append(np.asarray(gif.convert("RGB"))[-SIZE // 2, SIZE // 2, 0])
    np.testing.assert_allclose(greys, [40, 200, 120], atol=2)
    assert [p.name for p in tmp_path.iterdir()] == ["a.gif"]


def test_camera_reaches_the_env_only_if_given(tmp_path):
    class MovableEnv(ColorEnv):
        def render(self, states, task, *, width, height, **view):
            self.view = view
            return super().render(states, task, width=width, height=height)

    env = MovableEnv()
    write(tmp_path / "a.mp4", [[episode([1])]], env)
    assert env.view == {}
    write(tmp_path / "a.mp4", [[episode([1])]], env, View(SIZE, (1.0, -2.0)))
    assert env.view == {"camera": (1.0, -2.0)}


def test_float_pictures_are_scaled(tmp_path):
    class FloatEnv(ColorEnv):
        def render(self, states, task, *, width, height):
            return (
                frame / np.float32(255.0)
                for frame in super().render(states, task, width=width, height=height)
            )

    bytes_, floats = ColorEnv(), FloatEnv()
    shape = (SIZE + video._strip_height(SIZE), SIZE)
    row = [episode([0, 40, 255])]
    for one, other in zip(
        video._row_frames(bytes_, row, VIEW, shape),
        video._row_frames(floats, row, VIEW, shape),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.full((2, 2, 3), 40.0), "render returned float64 from 40.0 to 40.0; a picture is uint8"),
        (np.full((2, 2, 3), np.nan), "float64 from nan to nan"),
        (np.full((2, 2, 3), 256), "int64 from 256 to 256"),
        (np.ones((2, 2, 3), bool), "bool from True to True"),
        (np.zeros((2, 2)), r"shape \(2, 2\), no picture"),
    ],
)
def test_pixels_that_are_no_picture_are_refused(picture, message):
    with pytest.raises(NoPictures, match=message):
        as_pixels(picture)


def test_episode_and_view_check_themselves():
    with pytest.raises(ValueError, match="'lame' has 3 states and 2 rewards"):
        Episode(np.zeros((3, 1)), np.zeros(2), np.zeros(1), "", "lame", 0.05)
    with pytest.raises(ValueError, match="at least one"):
        episode([])
    for dt in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="'before adaptation': dt must be positive, got"):
            episode([1], dt=dt)
    for size in (65, 0, -2):
        with pytest.raises(ValueError, match="even"):
            View(size)


def test_unknown_suffix_is_refused_before_anything_is_made(tmp_path):
    path = tmp_path / "folder" / "a.avi"
    with pytest.raises(ValueError, match="ends in .mp4 or .gif"):
        write(path, [[episode([1])]])
    assert not path.parent.exists()
