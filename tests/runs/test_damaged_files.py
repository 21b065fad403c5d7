"""Damaged files of a run folder: answered in one line, or read as if they were intact."""

import itertools
import json

import pytest
import torch
from mutations import mutations
from run_files import write_run

from metarl.certification.grid import read_grid
from metarl.config.schema import from_yaml
from metarl.core.errors import MetarlError
from metarl.evaluation import results
from metarl.reporting.report import numbers, write_report
from metarl.runs import checkpoint, provenance, reader
from metarl.runs.recorded import read_spec
from metarl.suites.suite import read_suite


def read_all(run):
    """Reads a run folder as resume, evaluate, video and report do."""
    reader.load(run)
    read_spec(run)


def answer(work):
    """Returns the message of an error of one line, None for no error; others are raised."""
    try:
        work()
    except MetarlError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000, str(error)
        return str(error)
    return None


@pytest.mark.parametrize("name", ["evaluation.json", "metrics.jsonl", "run.json"])
def test_damaged_file_of_a_run_is_answered(name, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "_read_git_revision", lambda: None)
    run = write_run(tmp_path / "run", records=3)
    whole = (run / name).read_text()
    text = whole.splitlines()[0] if name == "metrics.jsonl" else whole
    answers = []
    for damaged in mutations(text, 0, 100):
        (run / name).write_bytes(damaged + b"\n")
        answers.append(answer(lambda: read_all(run)))
        if name == "run.json":
            answer(lambda: provenance.write_run_json(run, None, device="cpu", threads=1))
    assert any(answers)
    (run / name).write_text(whole)
    assert answer(lambda: read_all(run)) is None


def test_report_of_a_damaged_evaluation_is_answered(tmp_path):
    run = write_run(tmp_path / "run", records=2)
    text = (run / results.FILE).read_text()
    drawn = 0
    for damaged in itertools.islice(mutations(text, 1, 2000), 400):
        (run / results.FILE).write_bytes(damaged)
        if answer(lambda: reader.load(run)) is None and damaged != text.encode() and drawn < 5:
            answer(lambda: numbers(write_report([run], tmp_path / "report.html")))
            drawn += 1
    assert drawn


CONFIG = {"env": "navigation-2d", "seed": 3, "iterations": 2, "sampler": {"num_tasks": 2}}
CONFIG |= {"learner": {"hidden_sizes": [8], "inner_lr": 0.1}, "trainer": {"video": False}}
SUITE = {"about": "x", "seeds": [0, 1], "settings": {"trainer": {"video": False}}}
SUITE |= {"runs": [{"env": "navigation-2d", "learner": {"inner_lr": 0.1}, "label": "a"}]}
AXIS = {"vary": "goal_x", "levels": [0.0, [0.1, 0.2]], "set": {"goal_y": 0.0}}
GRID = {"about": "x", "num_tasks": 3, "attempts": 2, "axes": {"x": AXIS}}


@pytest.mark.parametrize(
    ("tree", "read"),
    [(CONFIG, from_yaml), (SUITE, read_suite), (GRID, read_grid)],
    ids=["config", "suite", "grid"],
)
def test_damaged_yaml_file_is_answered(tree, read, tmp_path):
    path = tmp_path / "file.yaml"
    text = json.dumps(tree)  # which YAML reads too
    path.write_text(text)
    assert answer(lambda: read(path)) is None
    answers = []
    for damaged in mutations(text, 2, 150):
        path.write_bytes(damaged)
        answers.append(answer(lambda: read(path)))
    assert any(answers)


@pytest.mark.parametrize("name", ["manifest.json", "state.json"])
def test_damaged_checkpoint_is_refused_or_the_same(name, tmp_path):
    path = checkpoint.save(tmp_path, 3, {"a": torch.ones(2)}, {"iteration": 3, "seconds": 0.5})
    text = (path / name).read_text()
    for damaged in mutations(text, 3, 150):
        (path / name).write_bytes(damaged)
        if damaged != text.encode():
            assert "no checkpoint verifies" in answer(lambda: checkpoint.load_newest(tmp_path))
