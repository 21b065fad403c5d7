"""The learner of examples/own_learner, used from the command line as its readers would."""

import json
import re
import shutil

import pytest
import torch
import yaml
from commands import METARL, QUIET, REPOSITORY, TRAIN, call, is_one_line, read_records

from metarl.runs import checkpoint
from metarl.runs.logger import without_time

EXAMPLE = REPOSITORY / "examples" / "own_learner"
WORDS = (
    "--env navigation-2d --algo my_learner:MyLearner --device cpu --sampler.num-tasks 3 "
    "--sampler.num-episodes 4 --sampler.threads 1"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that holds the learner and is the current directory of the commands."""
    path = tmp_path_factory.mktemp("own")
    shutil.copy(EXAMPLE / "my_learner.py", path)
    return path


@pytest.fixture(scope="module")
def whole(folder):
    done = call(*TRAIN, *WORDS, *QUIET, "--iterations", "3", "--run-dir", "whole", cwd=folder)
    return folder / "whole", done


def test_own_learner_trains(whole):
    run, done = whole
    assert (done.code, done.err) == (0, "")
    assert "training my_learner:MyLearner on navigation-2d" in done.out
    assert [record["iteration"] for record in read_records(run)] == [1, 2, 3]
    assert all(record["change"] > 0.0 for record in read_records(run))
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["algo"] == "my_learner:MyLearner" and config["learner"]["inner_lr"] == 0.03


def test_own_learner_resumes_bit_for_bit(folder, whole):
    words = [*WORDS, *QUIET, "--iterations", "1", "--run-dir", "half"]
    assert call(*TRAIN, *words, cwd=folder).code == 0
    done = call(*TRAIN, "--resume", "half", "--trust-env", "--iterations", "3", cwd=folder)
    assert (done.code, done.err) == (0, "") and "from iteration 1 on" in done.out
    left, right = read_records(folder / "half"), read_records(whole[0])
    assert [without_time(r) for r in left] == [without_time(r) for r in right]
    one, other = (checkpoint.load_newest(folder / n / "checkpoints") for n in ("half", "whole"))
    assert torch.equal(one.tensors["theta"], other.tensors["theta"])


def test_own_learner_is_evaluated(folder, whole):
    words = ["evaluate", "whole", "--num-tasks", "2", "--trust-env"]
    done = call(*METARL, *words, cwd=folder, PYTHONPATH=REPOSITORY)
    assert (done.code, done.err) == (0, "")
    (path,) = whole[0].glob("**/evaluation*.json")
    result = json.loads(path.read_text())
    assert result["algo"] == "my_learner:MyLearner" and len(result["returns"]["mean"]) == 4


def test_own_learner_learns_to_adapt(folder):
    words = [*WORDS, *QUIET, "--iterations", "25", "--sampler.num-tasks", "10"]
    assert call(*TRAIN, *words, "--run-dir", "long", cwd=folder).code == 0
    first, last = read_records(folder / "long")[0], read_records(folder / "long")[-1]
    assert last["return_post"] > first["return_post"] + 20.0
    assert last["return_post"] > last["return_pre"] + 10.0


def test_settings_of_own_learner_are_flags(folder):
    done = call(*TRAIN, *WORDS, "--help", cwd=folder)
    assert done.code == 0 and re.search(r"--learner.inner-lr FLOAT", done.out)
    for flag, value, text in (
        ("--learner.inner-lr", "0", "learner.inner_lr = 0.0: must be > 0"),
        ("--learner.inner-rl", "1", "unknown flag --learner.inner-rl; did you mean"),
    ):
        done = call(*TRAIN, *WORDS, flag, value, cwd=folder)
        assert done.code == 2 and is_one_line(done.err) and text in done.err


def test_code_of_own_learner_is_short():
    lines = (EXAMPLE / "my_learner.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in lines) < 110
