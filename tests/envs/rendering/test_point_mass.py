import numpy as np
import pytest

from metarl.envs.rendering.marker import Marker
from metarl.envs.rendering.point_mass import PATH_COLOR, POINT_COLOR, render_plane
from metarl.envs.rendering.render import MARKER_COLOR


def green(frame):
    """Pixels (rows, columns) of the marker, in light or in shadow."""
    red, green, blue = frame.astype(int).transpose(2, 0, 1)
    return (green > 1.25 * red) & (green > 1.25 * blue)


def test_plane_shows_target_point_and_path():
    states = np.array([[0.0, 0.0], [0.4, 0.0], [0.4, 0.6]])
    shown = list(render_plane(states, Marker("target", (-0.6, -0.6)), width=240, height=240))
    assert len(shown) == 3 and shown[0].shape == (240, 240, 3) and shown[0].dtype == np.uint8

    def pixel(frame, x, y):
        return frame[round(120 - 100 * y), round(120 + 100 * x)]

    for frame, point in zip(shown, states, strict=True):
        np.testing.assert_allclose(pixel(frame, *point), POINT_COLOR, atol=8)
        np.testing.assert_allclose(pixel(frame, -0.6, -0.6), 255 * MARKER_COLOR, atol=8)
    on_path = [pixel(frame, 0.2, 0.0).astype(int) for frame in shown]
    assert on_path[0].min() > 180
    for color in on_path[1:]:
        np.testing.assert_allclose(color, PATH_COLOR, atol=12)


def test_plane_grows_with_the_path():
    states = np.array([[0.0, 0.0], [5.0, -4.0]])
    frame = list(render_plane(states, Marker("target", (-6.0, 1.0)), width=200, height=120))[-1]
    assert green(frame).sum() > 10
    assert (np.abs(frame.astype(int) - POINT_COLOR).sum(axis=2) < 20).sum() > 4
    with pytest.raises(ValueError, match=r"\(L, 2\)"):
        render_plane(states[:, :1], Marker("target", (0.0, 0.0)), width=8, height=8)
