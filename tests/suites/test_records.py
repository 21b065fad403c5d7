import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest
from suite_rows import ROW

from metarl.cli import commands
from metarl.core.errors import ConfigError
from metarl.suites import records, stages
from metarl.suites.records import _number_tasks, merge_rows, read_rows, write_rows
from metarl.suites.suite import read_suite


def test_rows_are_read_as_they_were_written(tmp_path):
    rows = [ROW, replace(ROW, seed=None, per_task=[], references={}, held_out=False)]
    rows += [replace(ROW, label='a, "b"\n\u2028c\x85 | \u6b69', references={"\u6b69": 1e-300})]
    rows += [replace(ROW, per_task=[1 / 3] * 10_000, distance=0.1 + 0.2)]
    write_rows(tmp_path / "new" / "r.csv", rows)
    assert read_rows(tmp_path / "new" / "r.csv") == rows


def test_rows_have_the_distance_where_an_evaluation_has_it(tmp_path):
    (tmp_path / "s.yaml").write_text(
        "settings: {iterations: 1, trainer: {video: false, logger: none, evaluate_tasks: 2},\n"
        "  sampler: {num_tasks: 2, num_episodes: 1}, learner: {hidden_sizes: [8]}}\n"
        "runs: [{env: half-cheetah-dir}, {env: navigation-2d}]\n"
    )
    suite = read_suite(tmp_path / "s.yaml", tmp_path / "runs")
    for run in suite.runs:
        stages.prepare(run)
        assert commands.main(stages.next_command(run)) == 0
    rows = records.collect_rows(suite)
    result = json.loads((suite.runs[0].folder / "evaluation.json").read_text())
    expected = result["distance"]["mean"]
    assert len(expected) == 4 and min(expected) > 0.0
    assert [row.distance for row in rows if row.env == "half-cheetah-dir"] == expected
    assert [row.distance for row in rows if row.env == "navigation-2d"] == [None] * 4


def test_rows_that_two_add_at_the_same_time_are_all_kept(tmp_path, monkeypatch):
    path, both_have_read = tmp_path / "a.csv", threading.Barrier(2)
    write_rows(path, [ROW])

    def read_and_wait(name):
        found = read_rows(name)
        with suppress(threading.BrokenBarrierError):  # the other waits for its turn
            both_have_read.wait(0.5)
        return found

    monkeypatch.setattr(records, "read_rows", read_and_wait)
    new = [replace(ROW, label="one"), replace(ROW, label="two")]
    with ThreadPoolExecutor(2) as pool:
        counts = [count for _, count in pool.map(lambda row: records.add_rows(path, [row]), new)]
    assert counts == [0, 0] and {row.label for row in read_rows(path)} == {ROW.label, "one", "two"}
    assert [each.name for each in tmp_path.iterdir()] == ["a.csv"]


def test_merge_replaces_runs_and_keeps_other_rows():
    others = [replace(ROW, **change) for change in ({"env": "e"}, {"algo": "a"}, {"label": "l"})]
    others += [replace(ROW, seed=2), replace(ROW, seed=None)]
    old = [others[0], ROW, replace(ROW, rollout=1), replace(ROW, rollout=2), *others[1:]]
    new = [replace(ROW, mean=7.0, suite="t"), replace(ROW, mean=8.0, rollout=1)]
    assert merge_rows(old, new) == ([*others, *new], 3)
    assert merge_rows([], new) == (new, 0) and merge_rows(old, []) == (old, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("env_version", "version"), "line 1: must be suite,env"),
        (lambda text: text.replace("true", "maybe"), "line 2: held_out = 'maybe'"),
        (lambda text: text + "a,b\n", "line 3: 2 fields, must be 26"),
        (lambda text: "", "line 1: must be"),
    ],
)
def test_wrong_csv_names_line_and_column(tmp_path, change, message):
    path = tmp_path / "r.csv"
    write_rows(path, [ROW])
    path.write_text(change(path.read_text()))
    with pytest.raises(ConfigError, match=message):
        read_rows(path)


def test_missing_csv_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_rows(tmp_path / "none.csv")


def test_equal_tasks_have_one_number():
    assert _number_tasks([[1.0], [-1.0], [1.0]]) == [1, 0, 1]
    assert _number_tasks([[0.1], [0.2]]) == []
