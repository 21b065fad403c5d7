"""A run folder of somebody else runs no code unless the user trusts it."""

import os
import shutil
import sys

import pytest
import yaml
from commands import METARL, QUIET, REPOSITORY, TINY, call, is_one_line, read_records

from metarl.cli import commands
from metarl.config.trust import names_code, trust
from metarl.runs import checkpoint

TRAP = """
from pathlib import Path
Path({marker!r}).write_text("code was run")
raise RuntimeError("trap")
"""

VERBS = {
    "resume": ["train", "--resume", "RUN"],
    "init-from": ["train", *TINY, *QUIET, "--init-from", "RUN", "--run-dir", "new"],
    "config": ["train", "--config", "RUN/config.yaml", "--run-dir", "new"],
    "evaluate": ["evaluate", "RUN", "--num-tasks", "2"],
    "transfer": ["evaluate", "RUN", "--env", "navigation-2d-sparse"],
    "explain": ["explain", "RUN"],
    "video": ["video", "RUN"],
    "export": ["export", "RUN", "-o", "p.onnx"],
    "minari": ["export", "RUN", "--format", "minari", "-o", "./data"],
    "serve": ["serve", "RUN", "--transport", "stdin"],
    "certify": ["certify", "RUN", "-o", "certificate"],
    "publish": ["publish", "RUN", "published"],
    "push": ["push", "RUN", "org/name", "--to", "pushed"],
    "report": ["report", "RUN"],
    "oracle": ["certify", "GOOD", "--env", "navigation-2d", "--oracle", "RUN", "-o", "c"],
}
"""Every command that opens a run folder."""


@pytest.fixture(scope="module")
def forged_run(finished_run, tmp_path_factory):
    """A run whose checkpoint does not say with which settings it was trained."""
    run = tmp_path_factory.mktemp("forged") / "run"
    shutil.copytree(finished_run[0], run)
    saved = checkpoint.load_newest(run / "checkpoints", report=print)
    shutil.rmtree(run / "checkpoints")
    checkpoint.save(run / "checkpoints", saved.step, saved.tensors, saved.state)
    return run


@pytest.fixture
def foreign(forged_run, tmp_path, monkeypatch):
    """Returns a function that makes a run folder whose field names a trap in this directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    shutil.copytree(forged_run, tmp_path / "good")

    def make(field, module, **more):
        shutil.copytree(forged_run, tmp_path / "run")
        path = tmp_path / "run" / "config.yaml"
        config = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump({**config, field: f"{module}:Trap", **more}))
        (tmp_path / f"{module}.py").write_text(TRAP.format(marker=str(tmp_path / "marker")))

    return make


@pytest.mark.parametrize("field", ["env", "algo"])
@pytest.mark.parametrize("verb", VERBS)
def test_foreign_run_folder_runs_no_code(verb, field, foreign, tmp_path, capsys, monkeypatch):
    module = f"trap_{field}_{verb.replace('-', '_')}"
    foreign(field, module, observe_task=verb == "oracle")
    places = {"RUN": "run", "GOOD": "good"}
    words = [
        word.replace("RUN", "run") if "/" in word else places.get(word, word)
        for word in VERBS[verb]
    ]
    with open(os.devnull) as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        code = commands.main(words)
    out, err = capsys.readouterr()
    assert not (tmp_path / "marker").exists() and module not in sys.modules, err
    assert code in (0, 2, 5) and "Traceback" not in err
    if verb in ("resume", "evaluate", "explain", "video", "certify", "minari", "config"):
        assert code == 2 and is_one_line(err) and f"{module}:Trap" in err
        assert "--trust-env" in err or (verb == "config" and f"add --{field} {module}:Trap" in err)
    assert not (tmp_path / "new").exists() or verb == "init-from"


def test_trusted_trap_would_run(foreign, tmp_path, capsys):
    foreign("env", "trap_that_works")
    assert commands.main(["evaluate", "run", "--num-tasks", "2", "--trust-env"]) in (3, 5)
    assert (tmp_path / "marker").exists()


PLUGIN = """
from metarl.envs.navigation import DenseGoal, NavigationEnv

def make_env(name, threads):
    return NavigationEnv(name, DenseGoal(half_width=0.1), horizon=20)
"""


def test_own_run_is_resumed_with_the_command_of_the_message(tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    variables = {"cwd": tmp_path, "PYTHONPATH": str(REPOSITORY)}
    begin = [*TINY, *QUIET, "--env", "mine:make_env", "--iterations", "2", "--run-dir", "run"]
    assert call(*METARL, "train", *begin, **variables).code == 0
    more = ["train", "--resume", "run", "--iterations"]
    refused = call(*METARL, *more, "3", **variables)
    assert refused.code == 2 and is_one_line(refused.err)
    command = "metarl train --resume run --trust-env"
    assert refused.err.endswith(f"if you trust it: {command}\n")
    resumed = call(*METARL, *command.split()[1:], "--iterations", "3", **variables)
    assert resumed.code == 0, resumed.err
    named = call(*METARL, *more, "4", "--env", "mine:make_env", **variables)
    assert named.code == 0 and len(read_records(tmp_path / "run")) == 4, named.err
    assert "trust_env" not in (tmp_path / "run" / "config.yaml").read_text()
    other = call(*METARL, *more, "5", "--env", "other:make_env", **variables)
    assert other.code == 2 and "mine:make_env" in other.err
    shown = call(*METARL, "evaluate", "run", "--num-tasks", "2", "--trust-env", **variables)
    assert shown.code == 0, shown.err


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ant-dir", False),
        ("CartPole-v1", False),
        ("my robot.yaml:dir", False),
        ("my_env:MyEnv", True),
        ("ale_py:ALE/Pong-v5", True),
        ("x.yaml:y.py:z", True),
    ],
)
def test_names_of_code_are_recognised(name, expected):
    assert names_code(name) == expected
    trust(None, 3, "ant-dir")  # nothing to note
