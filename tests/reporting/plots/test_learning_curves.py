"""Learning curves: their means, bands, marks, tick labels and legends."""

import itertools

import numpy as np
from run_files import write_run

from metarl.reporting.plots.learning_curves import draw_learning_curves, smooth
from metarl.runs.reader import group_runs, load, load_all


def test_tick_labels_of_a_short_run_do_not_touch(tmp_path):
    paths = [write_run(tmp_path / env, env=env, records=2) for env in ("ant-dir", "ant-vel")]
    for path in paths:
        text = (path / "metrics.jsonl").read_text().replace(": 1000,", ": 1586,")
        (path / "metrics.jsonl").write_text(text.replace(": 2000,", ": 3186,"))
    figure = draw_learning_curves(group_runs(load_all(paths)))
    figure.canvas.draw()
    axes = figure.axes[0]
    boxes = sorted(
        (label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()),
        key=lambda box: box.x0,
    )
    shown = [
        box for box in boxes if axes.bbox.x0 - 1 <= 0.5 * (box.x0 + box.x1) <= axes.bbox.x1 + 1
    ]
    assert len(shown) >= 3
    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(shown))


def test_mean_curve_has_a_band_of_one_standard_error(tmp_path):
    runs = [write_run(tmp_path / f"s{seed}", seed=seed) for seed in range(3)]
    figure = draw_learning_curves(group_runs(load_all(runs)))
    mean = next(line for line in figure.axes[0].lines if "3 seeds" in str(line.get_label()))
    # return_post of record i is i + seed, and three records are averaged: the mean is i + 1, but
    # at the ends
    x, y = mean.get_data()
    inside = (x > 0.002) & (x < 0.029)
    np.testing.assert_allclose(y[inside], x[inside] * 1e3, rtol=1e-9)
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    at = np.abs(band[:, 0] - 0.015) < 1e-4
    np.testing.assert_allclose(np.ptp(band[at, 1]), 2.0 / np.sqrt(3.0), atol=0.15)


def test_curve_of_a_single_iteration_is_marked(tmp_path):
    one, two = (write_run(tmp_path / name, records=n) for name, n in (("a", 1), ("b", 2)))
    figure = draw_learning_curves(group_runs([load(one)]))
    assert [line.get_marker() for line in figure.axes[0].lines[:2]] == ["o", "o"]
    figure = draw_learning_curves(group_runs([load(two)]))
    assert [line.get_marker() for line in figure.axes[0].lines[:2]] == ["None", "None"]


def test_long_legend_leaves_the_panel_and_its_label_room(tmp_path):
    runs = [write_run(tmp_path / f"r{i}", records=3, max_kl=0.01 * (i + 1)) for i in range(9)]
    figure = draw_learning_curves(group_runs(load_all(runs)))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    legend, label = axes.get_legend().get_window_extent(), axes.xaxis.label.get_window_extent()
    assert legend.y1 < label.y0 and legend.y0 >= 0.0
    assert axes.get_window_extent().height / figure.dpi > 1.5


def test_smooth_ignores_nan_and_shrinks_at_the_ends():
    values = np.arange(40.0)
    values[20] = np.nan
    found = smooth(values)
    # windows of four, 8 to 11 around 10; at the start two values, around the gap three
    assert found[10] == 9.5 and found[0] == 0.5 and found[20] == (18.0 + 19.0 + 21.0) / 3.0
    assert np.isfinite(found).all()
    assert smooth(np.array([1.0, np.nan]))[0] == 1.0
