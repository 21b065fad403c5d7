import re
import subprocess
from types import SimpleNamespace

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from metarl.core.tasks import Variable
from metarl.reporting import video
from metarl.reporting.episode import Episode, playback
from metarl.reporting.video import write_video

ANGLE = Variable("angle", "rad", 0.0, 7.0)
SIZE = 64


class ColorEnv:
    """Draws a state as a picture of one grey, and remembers what it was asked to draw."""

    def __init__(self, dt=0.05):
        self.spec = SimpleNamespace(dt=dt, tasks=SimpleNamespace(variables=(ANGLE,)))
        self.asked = []

    def render(self, states, task, *, width, height):
        self.asked.append((states.copy(), task))
        return (np.full((height, width, 3), int(s[0]), dtype=np.uint8) for s in states)


def episode(values, label="before adaptation", reward=1.0, **settings):
    states = np.array(values, dtype=float)[:, None]
    return Episode(states, np.full(len(states), reward), np.array([1.57]), label, **settings)


def decode(path):
    """All frames (n, height, width, 3) of a file, and what the decoder says about it."""
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
    words = done.stderr.decode()
    width, height = map(int, re.search(r"Video: .*?, (\d+)x(\d+)", words).groups())
    return np.frombuffer(done.stdout, dtype=np.uint8).reshape(-1, height, width, 3), words


def hold(fps):
    return round(video.HOLD * fps)


def test_the_file_decodes_to_all_frames_at_the_right_size_and_speed(tmp_path):
    panels = [[episode([40, 80, 120]), episode([200] * 5)], [episode([10, 20])]]
    path = write_video(tmp_path / "deep" / "run.mp4", ColorEnv(), panels, size=SIZE)
    shown, words = decode(path)
    assert len(shown) == 5 + 2 + 2 * hold(20)
    assert shown.shape[2] == 2 * SIZE + 4
    assert shown.shape[1] > SIZE and shown.shape[1] % 2 == 0
    assert "h264" in words and "yuv420p" in words and "20 fps" in words
    middle = shown[:, -SIZE // 2]
    for index, grey in enumerate([40, 80, 120]):
        np.testing.assert_allclose(middle[index, SIZE // 2], grey, atol=6)
    np.testing.assert_allclose(middle[4, -SIZE // 2], 200, atol=6)
    second = 5 + hold(20)
    np.testing.assert_allclose(middle[second, SIZE // 2], 10, atol=6)
    np.testing.assert_allclose(middle[second + 1, SIZE // 2], 20, atol=6)


def test_the_index_stands_before_the_pictures(tmp_path):
    data = write_video(tmp_path / "a.mp4", ColorEnv(), [[episode([5] * 3)]], size=SIZE).read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_a_shorter_episode_freezes_and_says_that_it_ended():
    row = [episode([90, 160]), episode([90, 90, 90, 90])]
    shape = (SIZE + video._strip_height(SIZE), 2 * SIZE + 4)
    shown = list(video._row_frames(ColorEnv(), row, SIZE, shape, 1, 0))
    left = [frame[-SIZE:, :SIZE].astype(int) for frame in shown]
    assert len(shown) == 4
    assert (left[1] == 160).all()
    assert (left[2] != 160).all() and len(np.unique(left[2])) > 2, "faded, with a note"
    np.testing.assert_array_equal(left[2], left[3])
    np.testing.assert_array_equal(shown[3][:-SIZE, :SIZE], shown[1][:-SIZE, :SIZE])
    assert (shown[3][-SIZE:, -SIZE:] == 90).all(), "the longer one has no note"


def test_the_caption_shows_label_task_return_and_step(monkeypatch):
    written = []
    draw = video.ImageDraw.ImageDraw.text

    def spy(self, xy, text, *args, **kwargs):
        written.append(text)
        return draw(self, xy, text, *args, **kwargs)

    monkeypatch.setattr(video.ImageDraw.ImageDraw, "text", spy)
    played = Episode(
        np.zeros((3, 1)), np.array([1.5, -4.0, 10.0]), np.array([1.57]), "after 1 step"
    )
    captions = [video._caption(ColorEnv(), played, step, 480) for step in range(3)]
    assert written[:4] == ["return 1.5", "after 1 step", "step 1", "angle 1.57 rad"]
    assert written[4::4] == ["return -2.5", "return 7.5"]
    assert captions[0].shape == (video._strip_height(480), 480, 3)
    half = 240
    assert (captions[0][:, half:] != captions[1][:, half:]).any()
    np.testing.assert_array_equal(captions[0][:, :half], captions[1][:, :half])


def test_words_of_the_episode_stand_in_for_those_of_the_variables(monkeypatch):
    monkeypatch.setattr(video, "describe_task", lambda *_: pytest.fail("not needed"))
    own = video._caption(ColorEnv(), episode([1], task_words="go north"), 0, 480)
    other = video._caption(ColorEnv(), episode([1], task_words="go south"), 0, 480)
    assert (own != other).any()


def test_a_long_label_is_shortened_before_it_meets_the_return():
    caption = video._caption(ColorEnv(), episode([1], label="a very long label " * 9), 0, 480)
    top = caption[: caption.shape[0] // 2]
    ink = np.abs(top.astype(int) - caption[0, 0]).sum(axis=(0, 2)) > 0
    gaps = np.diff(np.flatnonzero(ink))
    assert gaps.max() >= 10


@pytest.mark.parametrize(
    ("dt", "fps", "stride"),
    [(0.05, 20.0, 1), (1.0, 20.0, 1), (1 / 60, 60.0, 1), (0.01, 50.0, 2), (0.002, 500 / 9, 9)],
)
def test_playback_is_real_time_where_that_can_be_watched(dt, fps, stride):
    assert playback(dt) == (pytest.approx(fps), stride)


def test_a_fast_simulation_skips_steps_but_shows_the_last(tmp_path):
    env = ColorEnv(dt=0.01)
    write_video(tmp_path / "a.mp4", env, [[episode(range(0, 80, 10))]], size=SIZE)
    assert env.asked[0][0].ravel().tolist() == [0, 20, 40, 60, 70]
    every = ColorEnv(dt=0.01)
    write_video(tmp_path / "b.mp4", every, [[episode(range(0, 80, 10))]], size=SIZE, fps=10)
    assert len(every.asked[0][0]) == 8


class BrokenEnv(ColorEnv):
    def render(self, states, task, *, width, height):
        yield np.zeros((height, width, 3), dtype=np.uint8)
        raise RuntimeError("no picture")


def test_a_failed_picture_leaves_no_file_and_the_old_video_as_it_was(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="no picture"):
        write_video(path, BrokenEnv(), [[episode([1, 2, 3])]], size=SIZE)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert path.read_bytes() == b"old"


def test_a_failed_encoder_leaves_no_file_and_says_why(tmp_path):
    with pytest.raises(OSError, match=r"(?s)status .*\.mp4: .*framerate"):
        write_video(tmp_path / "a.mp4", ColorEnv(), [[episode([1] * 50)]], size=SIZE, fps=1e-9)
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_ends_early_is_reported_once_frames_no_longer_fit(tmp_path, monkeypatch):
    quitter = tmp_path / "ffmpeg"
    quitter.write_text("#!/bin/sh\necho no room >&2\nexit 7\n")
    quitter.chmod(0o755)
    monkeypatch.setattr(video.imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(quitter))
    folder = tmp_path / "videos"
    with pytest.raises(OSError, match="status 7 .*: no room"):
        write_video(folder / "a.mp4", ColorEnv(), [[episode([1] * 50)]], size=SIZE)
    assert list(folder.iterdir()) == []


def test_a_gif_holds_every_frame_and_goes_round_for_ever(tmp_path):
    path = write_video(tmp_path / "a.gif", ColorEnv(), [[episode([40, 200, 120])]], size=SIZE)
    with Image.open(path) as gif:
        assert gif.n_frames == 3 + hold(20) and gif.info["loop"] == 0
        greys = []
        for index in range(3):
            gif.seek(index)
            greys.append(np.asarray(gif.convert("RGB"))[-SIZE // 2, SIZE // 2, 0])
    np.testing.assert_allclose(greys, [40, 200, 120], atol=2)
    assert [p.name for p in tmp_path.iterdir()] == ["a.gif"]


def test_the_camera_reaches_the_environment_only_when_it_is_asked_for(tmp_path):
    class Turns(ColorEnv):
        def render(self, states, task, *, width, height, **view):
            self.view = view
            return super().render(states, task, width=width, height=height)

    env = Turns()
    write_video(tmp_path / "a.mp4", env, [[episode([1])]], size=SIZE)
    assert env.view == {}
    write_video(tmp_path / "a.mp4", env, [[episode([1])]], size=SIZE, camera=(1.0, -2.0))
    assert env.view == {"camera": (1.0, -2.0)}


def test_what_cannot_be_shown_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "folder" / "a.mp4"
    lame = Episode(np.zeros((3, 1)), np.zeros(2), np.zeros(1), "lame")
    for panels, size, words in [
        ([], SIZE, "at least one task"),
        ([[episode([1])], []], SIZE, "at least one episode"),
        ([[lame]], SIZE, "'lame' has 3 states and 2 rewards"),
        ([[episode([1])]], 65, "even"),
    ]:
        with pytest.raises(ValueError, match=words):
            write_video(path, ColorEnv(), panels, size=size)
    with pytest.raises(ValueError, match="ends in .mp4 or .gif"):
        write_video(path.with_suffix(".avi"), ColorEnv(), [[episode([1])]], size=SIZE)
    assert not path.parent.exists()
