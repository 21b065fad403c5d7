"""Writes episodes as mp4 or gif: those of one task side by side, one task after another.

Pictures come from `env.render`, the captions from the episodes.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from metarl.core.env import RenderableEnv, as_pixels
from metarl.core.messages import format_number, printable
from metarl.reporting.episode import Episode, View

GIF_FPS = 25.0
"""Largest rate of a gif [frames/s]: some viewers show faster ones slowly."""
SMALLEST = 0.6
"""Size of the smallest text of a caption, of that of a short one."""
HOLD = 0.8
"""Time for which the last picture of a task stands still [s]."""

_CODECS = {
    ".mp4": "-an -c:v libx264 -pix_fmt yuv420p -crf 20 -preset veryfast -movflags +faststart",
    # a palette for every frame, so that no film is held in memory
    ".gif": "-filter_complex fps={fps},split[a][b];[a]palettegen=stats_mode=single[p];"
    "[b][p]paletteuse=new=1 -loop 0",
}

_GAP = 4  # between two panels [pixels]
_STRIP, _STAGE, _TASK, _VALUE, _MUTED = (
    (24, 28, 36),
    (245, 247, 250),
    (170, 180, 195),
    (250, 178, 120),
    (120, 130, 146),
)


def write_video(
    path: Path, env: RenderableEnv, panels: Sequence[Sequence[Episode]], view: View
) -> None:
    """Writes an mp4 (H.264, yuv420p, index in front, so that it plays while it loads), or a gif.

    The file appears complete or not at all: it is written under a hidden name beside `path` and
    renamed.

    Args:
        path: Path of the file, ending in .mp4 or .gif; folders are made.
        env: Draws the episodes that name no environment of their own.
        panels: A row for each task, played one after another; the episodes of a row stand side by
            side. A shorter one freezes on its last picture.
        view: Size of one episode's picture, and its direction for a `MovableCamera`.

    Raises:
        ValueError: The suffix is another.
        NoPictures: The environment draws no picture, or something else.
        OSError: The encoder failed; names the file and quotes the encoder.
    """
    if path.suffix not in _CODECS:
        raise ValueError(f"{path}: a film ends in {' or '.join(_CODECS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    columns = max(map(len, panels))
    has_name = any(episode.name for row in panels for episode in row)
    shape = (
        view.size + _strip_height(view.size, has_name),
        columns * view.size + (columns - 1) * _GAP,
    )
    fps, _ = panels[0][0].playback
    frames = (frame for row in panels for frame in _row_frames(env, row, view, shape))
    try:
        _encode(partial, frames, shape, fps)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _encode(path: Path, frames: Iterator[np.ndarray], shape: tuple[int, int], fps: float) -> None:
    """Encodes frames (*shape, 3) uint8.

    Source: the command of `imageio_ffmpeg.write_frames`, which returns neither ffmpeg's exit status
    nor its messages, and leaves a pipe open when ffmpeg ends early (0.8.1).
    """
    source = f"-f rawvideo -pix_fmt rgb24 -s {shape[1]}x{shape[0]} -r {fps:.6f} -i -"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *source.split()]
    codec = _CODECS[path.suffix].format(fps=min(fps, GIF_FPS))
    command += [*codec.split(), str(path)]
    with (
        tempfile.TemporaryFile() as messages,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=messages
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
            messages.seek(0)
            text = messages.read().decode(errors="replace").strip()
            raise OSError(f"ffmpeg ended with status {encoder.returncode} for {path}: {text}")


def _row_frames(
    env: RenderableEnv, row: Sequence[Episode], view: View, shape: tuple[int, int]
) -> Iterator[np.ndarray]:
    """Yields frames (*shape, 3) uint8 of one task; the last one stands still for HOLD seconds."""
    size = view.size
    steps = [_choose_steps(episode) for episode in row]
    camera = {} if view.camera is None else {"camera": view.camera}
    pictures = [
        episode.drawn_by(env).render(
            episode.states[chosen], episode.task, width=size, height=size, **camera
        )
        for episode, chosen in zip(row, steps, strict=True)
    ]
    frame = np.empty((*shape, 3), dtype=np.uint8)
    frame[:] = _STRIP
    for index in range(max(map(len, steps))):
        for column, episode in enumerate(row):
            left = column * (size + _GAP)
            panel = frame[:, left : left + size]
            if index < len(steps[column]):
                panel[-size:] = as_pixels(next(pictures[column]))
                panel[:-size] = _caption(episode, int(steps[column][index]), size)
            elif index == len(steps[column]):
                panel[-size:] = _fade(panel[-size:])
        yield frame.copy()
    fps, _ = row[0].playback
    for _ in range(round(HOLD * fps)):
        yield frame.copy()


def _choose_steps(episode: Episode) -> np.ndarray:
    """Returns the steps of an episode that are shown: every stride-th and the last."""
    _, stride = episode.playback
    last = len(episode.states) - 1
    steps = np.arange(0, last + 1, stride)
    return steps if steps[-1] == last else np.append(steps, last)


def _strip_height(size: int, has_name: bool = False) -> int:
    return 2 * round((0.11 if has_name else 0.075) * size)


@functools.cache
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)


def _caption(episode: Episode, step: int, size: int) -> np.ndarray:
    """Draws the strip (height, size, 3) above a picture: stage, task, return so far, step.

    The name of the policy has a line of its own above, if the episode has one.
    """
    height, unit = _strip_height(size, bool(episode.name)), _strip_height(size)
    strip = Image.new("RGB", (size, height), _STRIP)
    draw = ImageDraw.Draw(strip)
    margin = round(0.025 * size)
    so_far = format_number(float(np.sum(episode.reward[: step + 1])), 1)
    top = height - unit
    lines = [
        (top + 0.32 * unit, 0.36, episode.stage, _STAGE, f"return {so_far}", _VALUE),
        (top + 0.74 * unit, 0.27, episode.task_text, _TASK, f"step {step + 1}", _MUTED),
    ]
    if episode.name:
        lines.append((0.6 * top, 0.36, episode.name, _STAGE, "", _STAGE))
    for y, share, left, left_color, right, right_color in lines:
        font = _font(max(6, round(share * unit)))
        draw.text((size - margin, y), right, right_color, font, anchor="rm")
        room = size - (3 if right else 2) * margin - draw.textlength(right, font)
        text, font = _fit(draw, printable(left), round(share * unit), room)  # of one line
        draw.text((margin, y), text, left_color, font, anchor="lm")
    return np.asarray(strip)


def _fit(draw: ImageDraw.ImageDraw, text: str, size: int, room: float) -> tuple[str, Any]:
    """Makes a text that is longer than `room` [pixels] smaller, and cuts it if it is still longer.

    Args:
        draw: Measures the text.
        text: The text.
        size: Of the font [pixels].
        room: Longest text [pixels].

    Returns:
        The text, with dots at its end if it is cut, and the font.
    """
    for smaller in range(max(6, size), max(6, round(SMALLEST * size)) - 1, -1):
        font = _font(smaller)
        if draw.textlength(text, font) <= room:
            return text, font
    while text and draw.textlength(text + "...", font) > room:
        text = text[:-1]
    return text + "...", font


def _fade(picture: np.ndarray) -> np.ndarray:
    """Fades a picture (size, size, 3), and marks its episode as ended."""
    size = len(picture)
    faded = Image.blend(Image.fromarray(picture), Image.new("RGB", (size, size), _STRIP), 0.35)
    draw = ImageDraw.Draw(faded)
    font = _font(max(8, round(0.05 * size)))
    middle = (0.5 * size, 0.9 * size)
    left, top, right, bottom = draw.textbbox(middle, "ended", font, anchor="mm")
    pad = round(0.02 * size)
    box = (left - pad, top - pad, right + pad, bottom + pad)
    draw.rounded_rectangle(box, radius=pad, fill=_STRIP)
    draw.text(middle, "ended", _STAGE, font, anchor="mm")
    return np.asarray(faded)
