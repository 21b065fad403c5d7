"""The command `suite` with real trainings."""

import json
import signal
from dataclasses import replace

import pytest
from commands import (
    METARL,
    REPOSITORY,
    finish,
    is_one_line,
    read_records,
    start,
    wait_for_records,
)
from suite_rows import ROW

from metarl.cli import commands
from metarl.runs.logger import without_time
from metarl.suites.records import read_rows, write_rows

SUITE = """
settings:
  trainer: {video: false, logger: none, evaluate_tasks: 3, checkpoint_minutes: 0.0001}
  sampler: {num_tasks: 2, num_episodes: 2}
runs:
  - {env: navigation-2d, iterations: ITERATIONS, learner: {hidden_sizes: [8]}}
  - {env: navigation-2d, label: broken, device: "cuda:7"}
"""


def write(folder, iterations=150):
    (folder / "mine.yaml").write_text(SUITE.replace("ITERATIONS", str(iterations)))


def test_suite_goes_on_after_a_stop_and_reports_failures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))  # of the child processes
    write(tmp_path)
    run = tmp_path / "runs" / "suites" / "mine" / "navigation-2d_maml-trpo" / "seed-0"
    command = [*METARL, "suite", "mine.yaml", "--jobs", "1"]
    process = start(*command, cwd=tmp_path, PYTHONPATH=str(REPOSITORY))
    wait_for_records(process, run, 2)
    process.send_signal(signal.SIGTERM)
    stopped = finish(process)
    assert stopped.code == 75
    hint = "0 of 2 runs are done, the others are saved; go on with: metarl suite mine.yaml --jobs 1"
    assert stopped.err.splitlines()[-1] == f"metarl: stopped by SIGTERM; {hint}"
    assert 2 <= len(read_records(run)) < 150 and not (tmp_path / "results").exists()

    other = replace(ROW, label="of another suite")
    stale = replace(ROW, env="navigation-2d", algo="maml-trpo", label="maml-trpo", seed=0)
    write_rows(tmp_path / "results" / "mine.csv", [other, stale])
    assert commands.main(["suite", "mine.yaml"]) == 6
    out, err = capsys.readouterr()
    assert is_one_line(err)
    assert "1 of 2 runs failed: navigation-2d_broken/seed-0 (see runs/suites/mine" in err
    assert "failed navigation-2d_broken/seed-0 (exit 6): metarl: error: --device cuda:7" in out
    assert "resumed navigation-2d_maml-trpo/seed-0" in out
    assert "| navigation-2d | maml-trpo | 1 seed" in out
    assert "1 of 2 runs; rows replaced: 1, kept of other runs: 1" in out
    check_results(tmp_path, run, other)

    arguments = ["train", "--config", str(run.with_name("seed-0.yaml")), "--run-dir", "once"]
    assert commands.main(arguments) == 0
    one, other = (map(without_time, read_records(path)) for path in (run, tmp_path / "once"))
    assert list(one) == list(other)


def check_results(folder, run, other):
    """Compares the CSV and the report of the suite with the files of its one finished run.

    `other` is the row that the CSV had before.
    """
    evaluation = json.loads((run / "evaluation.json").read_text())
    first, *rows = read_rows(folder / "results" / "mine.csv")
    assert first == other
    assert [row.mean for row in rows] == evaluation["returns"]["mean"]
    assert [row.per_task for row in rows] == evaluation["returns"]["per_task"]
    assert (rows[0].steps, rows[0].threads) == (evaluation["checkpoint"]["env_steps"], 1)
    assert all(row.mean_without_noise is not None for row in rows)
    assert all(len(row.per_task_without_noise) == row.num_tasks for row in rows)
    assert "navigation-2d" in (run.parent.parent / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quik"], "no such file; did you mean quick?"),
        ([], "FILE is missing"),
        (["mine.yaml", "--jobs", "0"], "must be a whole number >= 1"),
        (["mine.yaml", "--job", "1"], "did you mean --jobs?"),
        (["mine.yaml", "--csv", "none/x.csv"], "there is no folder none"),
        (["mine.yaml", "--csv", "x.json"], "--csv x.json: must end in .csv"),
        (["mine.yaml", "--csv", "my.csv"], "my.csv, line 1: must be suite,env"),
        (["mine.yaml", "--csv", "."], "--csv .: is a folder; name a file"),
        (["mine.yaml", "--run-dir", "mine.yaml"], "--run-dir mine.yaml: is a file; name a folder"),
        (["mine.yaml", "--run-dir", "bad.yaml/x"], "bad.yaml is a file; name another folder"),
        (["bad.yaml"], "unknown key iteration; did you mean iterations?"),
    ],
)
def test_wrong_arguments_start_nothing(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    (tmp_path / "bad.yaml").write_text("runs: [{env: navigation-2d, iteration: 1}]")
    (tmp_path / "my.csv").write_text("a,b\n1,2\n")
    assert commands.main(["suite", *arguments]) == 2
    err = capsys.readouterr().err
    assert is_one_line(err) and message in err
    assert (tmp_path / "my.csv").read_text() == "a,b\n1,2\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.yaml", "mine.yaml", "my.csv"]


def test_list_shows_suites_and_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, 7)
    assert commands.main(["suite", "--list"]) == 0
    assert "quick         18 runs  navigation-2d and" in capsys.readouterr().out
    assert commands.main(["suite", "mine.yaml", "--list"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[:2] == ["navigation-2d_maml-trpo/seed-0", "0/7"]
    assert second.startswith("navigation-2d_broken/seed-0")
