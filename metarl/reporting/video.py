"""Recorded episodes -> mp4 or gif: those of one task side by side, tasks one after another, with captions.

Knows no policy and no simulator: pictures come from `env.render`, numbers from recorded rewards.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from metarl.core.tasks import describe_task
from metarl.reporting.episode import Episode, check_panels, playback

GIF_FPS = 25.0
"""Most frames per second of a gif: some viewers show faster ones slowly."""
HOLD = 0.8
"""How long the last picture of a task stands still [s]."""

_CODECS = {
    ".mp4": "-an -c:v libx264 -pix_fmt yuv420p -crf 20 -preset veryfast -movflags +faststart",
    # a palette for every frame, so that no film has to wait in memory
    ".gif": "-filter_complex fps={fps},split[a][b];[a]palettegen=stats_mode=single[p];"
    "[b][p]paletteuse=new=1 -loop 0",
}

_GAP = 4  # between two panels [pixels]
_STRIP, _LABEL, _TASK, _VALUE, _MUTED = (
    (24, 28, 36),
    (245, 247, 250),
    (170, 180, 195),
    (250, 178, 120),
    (120, 130, 146),
)


class Filmed(Protocol):
    """What pictures need of an environment: `spec.dt`, `spec.tasks.variables`, and `render`."""

    @property
    def spec(self):
        """See `BatchEnv.spec`."""

    def render(
        self, states: np.ndarray, task: np.ndarray, *, width: int, height: int
    ) -> Iterator[np.ndarray]:
        """Draws snapshots (L, n) of task (D,): L frames (height, width, 3) uint8."""


def write_video(
    path: str | os.PathLike,
    env: Filmed,
    panels: Sequence[Sequence[Episode]],
    *,
    size: int = 480,
    fps: float | None = None,
    camera: tuple[float, float] | None = None,
) -> Path:
    """Writes an mp4 (H.264, yuv420p, index in front, so that it plays while it loads), or a gif.

    The file appears complete or not at all: it is written under a hidden name beside `path` and
    renamed.

    Args:
        path: Where to, ending in .mp4 or .gif; folders are made.
        env: Draws the episodes.
        panels: One row for each task, played one after another; the episodes of a row stand side by
            side. Of episodes of different lengths the shorter freezes on its last picture.
        size: Width and height of one episode's picture, even [pixels].
        fps: Frames per second, every step a frame. None plays in real time (see `playback`).
        camera: Azimuth and elevation of the view [degrees], for an environment whose `render` takes it.

    Returns:
        The path.

    Raises:
        ValueError: The suffix is another, the size is odd, there is nothing to show, or states and rewards disagree.
        OSError: The encoder failed; names the file and holds the encoder's words.
    """
    if size < 2 or size % 2:
        raise ValueError(
            f"size must be even and at least 2 (yuv420p halves the colours), got {size}"
        )
    if Path(path).suffix not in _CODECS:
        raise ValueError(f"{path}: a film ends in {' or '.join(_CODECS)}")
    check_panels(panels)
    speed, stride = playback(env.spec.dt) if fps is None else (fps, 1)
    columns = max(len(row) for row in panels)
    shape = (size + _strip_height(size), columns * size + (columns - 1) * _GAP)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    frames = (
        frame
        for row in panels
        for frame in _row_frames(env, row, size, shape, stride, round(HOLD * speed), camera)
    )
    try:
        _encode(partial, frames, shape, speed)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _encode(path: Path, frames: Iterator[np.ndarray], shape: tuple[int, int], fps: float) -> None:
    """Encodes frames (*shape, 3) uint8.

    Source: the command of `imageio_ffmpeg.write_frames`, which tells neither ffmpeg's exit status
    nor its words, and leaves a pipe open when ffmpeg ends early (0.8.1).
    """
    source = f"-f rawvideo -pix_fmt rgb24 -s {shape[1]}x{shape[0]} -r {fps:.6f} -i -"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *source.split()]
    codec = _CODECS[path.suffix].format(fps=min(fps, GIF_FPS))
    command += [*codec.split(), str(path)]
    with (
        tempfile.TemporaryFile() as words,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=words
        ) as encoder,
    ):
        pipe = encoder.stdin
        assert pipe is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # then the exit status says more
                for frame in frames:
                    pipe.write(frame.data)
        except BaseException:
            encoder.kill()
            raise
        finally:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        if encoder.wait():
            words.seek(0)
            said = words.read().decode(errors="replace").strip()
            raise OSError(f"ffmpeg ended with status {encoder.returncode} for {path}: {said}")


def _row_frames(
    env: Filmed,
    row: Sequence[Episode],
    size: int,
    shape: tuple[int, int],
    stride: int,
    hold: int,
    camera: tuple[float, float] | None = None,
) -> Iterator[np.ndarray]:
    """Yields frames (*shape, 3) uint8 of one task, the last one `hold` more times."""
    shown = [_chosen_steps(len(episode.states), stride) for episode in row]
    view = {} if camera is None else {"camera": camera}
    pictures = [
        env.render(episode.states[steps], episode.task, width=size, height=size, **view)
        for episode, steps in zip(row, shown, strict=True)
    ]
    frame = np.empty((*shape, 3), dtype=np.uint8)
    frame[:] = _STRIP
    for index in range(max(map(len, shown))):
        for column, episode in enumerate(row):
            left = column * (size + _GAP)
            panel = frame[:, left : left + size]
            steps = shown[column]
            if index < len(steps):
                panel[-size:] = next(pictures[column])
                panel[:-size] = _caption(env, episode, int(steps[index]), size)
            elif index == len(steps):
                panel[-size:] = _ended(panel[-size:])
        yield frame.copy()
    for _ in range(hold):
        yield frame.copy()


def _chosen_steps(num_steps: int, stride: int) -> np.ndarray:
    """Every stride-th step and the last one."""
    steps = np.arange(0, num_steps, stride)
    return steps if steps[-1] == num_steps - 1 else np.append(steps, num_steps - 1)


def _strip_height(size: int) -> int:
    return 2 * round(0.075 * size)


@functools.cache
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)


def _caption(env: Filmed, episode: Episode, step: int, size: int) -> np.ndarray:
    """The strip (height, size, 3) above a picture: label, task, return so far, step."""
    height = _strip_height(size)
    words = episode.task_words or describe_task(env.spec.tasks.variables, episode.task)
    strip = Image.new("RGB", (size, height), _STRIP)
    draw = ImageDraw.Draw(strip)
    margin = round(0.025 * size)
    so_far = float(np.sum(episode.reward[: step + 1]))
    lines = (
        (0.32, 0.36, episode.label, _LABEL, f"return {so_far:.1f}", _VALUE),
        (0.74, 0.27, words, _TASK, f"step {step + 1}", _MUTED),
    )
    for middle, share, left, left_color, right, right_color in lines:
        font = _font(max(6, round(share * height)))
        y = middle * height
        draw.text((size - margin, y), right, right_color, font, anchor="rm")
        room = size - 3 * margin - draw.textlength(right, font)
        draw.text((margin, y), _fitted(draw, left, font, room), left_color, font, anchor="lm")
    return np.asarray(strip)


def _fitted(draw: ImageDraw.ImageDraw, text: str, font, room: float) -> str:
    """The text, shortened with dots where it is longer than `room` [pixels]."""
    if draw.textlength(text, font) <= room:
        return text
    while text and draw.textlength(text + "...", font) > room:
        text = text[:-1]
    return text + "..."


def _ended(picture: np.ndarray) -> np.ndarray:
    """A picture (size, size, 3), faded, with the note that its episode is over."""
    size = len(picture)
    faded = Image.blend(Image.fromarray(picture), Image.new("RGB", (size, size), _STRIP), 0.35)
    draw = ImageDraw.Draw(faded)
    font = _font(max(8, round(0.05 * size)))
    middle = (0.5 * size, 0.9 * size)
    left, top, right, bottom = draw.textbbox(middle, "ended", font, anchor="mm")
    pad = round(0.02 * size)
    box = (left - pad, top - pad, right + pad, bottom + pad)
    draw.rounded_rectangle(box, radius=pad, fill=_STRIP)
    draw.text(middle, "ended", _LABEL, font, anchor="mm")
    return np.asarray(faded)
