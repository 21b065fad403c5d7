import pytest
from certificates import HOPPER_GRID, write_grid

from metarl.certification.grid import find_grid, list_grids, read_grid, select_axes
from metarl.certification.store import open_folder
from metarl.core.errors import ConfigError


def test_grid_is_read(tmp_path):
    grid = read_grid(write_grid(tmp_path, HOPPER_GRID))
    assert (grid.num_tasks, grid.attempts, grid.product) == (3, 2, False)
    friction, delay = grid.axes
    assert (friction.name, friction.variation, friction.levels) == (*["friction"] * 2, (0.2, 2.0))
    assert (delay.vary, dict(delay.set)) == ("delay", {"gear *": 1.0})
    assert select_axes(grid, ["delay"]) == (delay,)
    assert select_axes(grid, []) == (friction, delay)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_task: 3", "unknown key num_task; did you mean num_tasks?"),
        ("num_tasks: 0\naxes: {a: {vary: x, levels: [1]}}", "num_tasks = 0: must be a whole"),
        ("attempts: true\naxes: {a: {vary: x, levels: [1]}}", "attempts = True: must be a whole"),
        ("axes: {}", "axes = {}: must be a group of axes"),
        ("axes: {a: {levels: [1]}}", "axis a: vary = '': must be the name of a task number"),
        ("axes: {a: {vary: x, levels: 3}}", "axis a: levels = 3: must be a list of values, or all"),
        ("axes: {a: {vary: x, levels: [.nan]}}", "axis a: levels = nan: must be a finite number"),
        ("axes: {a: {vary: x, levels: [[2, 1]]}}", r"levels = \[2, 1\]: must be a finite number"),
        ("axes: {a: {vary: x, level: [1]}}", "axis a: unknown key level; did you mean levels?"),
    ],
)
def test_unusable_grid_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_grid(write_grid(tmp_path, text))


def test_unknown_names_are_answered_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="--grid leged: no such file; did you mean legged?"):
        find_grid("leged")
    with pytest.raises(ConfigError, match="--axes lod: no such axis; did you mean load?"):
        select_axes(read_grid(list_grids()["legged"]), ["lod"])


def test_other_axes_are_named_before_their_environments(tmp_path):
    def settings(*names):
        axes = [{"name": name, "vary": name} for name in names]
        return {"env_versions": {name: 1 for name in names}, "grid": {"axes": axes}}

    open_folder(tmp_path / "out", settings("load", "delay"))
    with pytest.raises(ConfigError, match="has grid.axes 'load, delay', now it is 'load'; choose"):
        open_folder(tmp_path / "out", settings("load"))
