"""The baselines as their users start them: the commands, the run folder, and what is refused."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from commands import one_line, records

from metarl.cli import commands
from metarl.cli import train as cli
from metarl.config.schema import parse
from metarl.learners.registry import ALGORITHMS
from metarl.runs import checkpoint
from metarl.runs.logger import without_time

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = (
    "--env navigation-2d --device cpu --sampler.num-tasks 3 --sampler.num-episodes 2 --sampler.threads 1 "
    "--trainer.no-video --trainer.no-tensorboard --learner.epochs 2 --learner.minibatches 4 --iterations 3"
).split()
ALGOS = {
    "sb3-ppo": ["--learner.mode", "scratch"],
    "sb3-trpo": ["--learner.mode", "oracle", "--sampler.num-adaptations", "0"],
    "sb3-rl2": ["--learner.lstm-size", "8", "--sampler.num-adaptations", "1"],
}


def call(*words, cwd):
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)


@pytest.fixture(scope="module", params=ALGOS)
def whole(request, tmp_path_factory):
    """A run that nothing has interrupted: its folder, its outcome, its words."""
    words = [*TINY, "--algo", request.param, *ALGOS[request.param]]
    cwd = tmp_path_factory.mktemp(request.param)
    done = call(REPOSITORY / "train.py", *words, "--run-dir", "run", cwd=cwd)
    return cwd / "run", done, words


def test_a_run_leaves_what_every_run_leaves_and_no_pickle(whole):
    run, done, words = whole
    assert (done.code, done.err) == (0, "")
    algo = words[words.index("--algo") + 1]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["algo"] == algo and config["env"] == "navigation-2d"
    assert [r["iteration"] for r in records(run)] == [1, 2, 3]
    for record in records(run):
        assert record["env_steps"] == record["iteration"] * 6 * 100 * len(
            [key for key in record if key.startswith("return/")]
        )
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "evaluation.json",
        "metrics.jsonl",
        "run.json",
    ]
    files = {path.name for path in (run / "checkpoints").rglob("*") if path.is_file()}
    assert files == {"tensors.safetensors", "state.json", "manifest.json"}


def test_evaluation_puts_returns_beside_experience(whole):
    run, done, words = whole
    result = json.loads((run / "evaluation.json").read_text())
    assert f"{result['returns']['mean'][-1]:.2f}" in done.out
    names = ("sb3-ppo-scratch", "sb3-trpo-oracle", "sb3-rl2")
    assert result["algo"] == next(
        name for name in names if words[words.index("--algo") + 1] in name
    )
    assert f"training {result['algo']} on navigation-2d" in done.out
    if "scratch" in words:
        # preset: 3 x 1 episodes of 100 steps x 2 rows; points before each of 3 updates, and after them
        assert result["experience"]["env_steps"] == [0.0, 200.0, 400.0, 600.0]
        assert result["num_tasks"] == 3 and "from scratch" in result["note"]
        for point, record in zip(result["returns"]["mean"], records(run), strict=False):
            assert point == pytest.approx(record["return/0"])
    else:
        assert len(result["returns"]["mean"]) == 4 and result["num_tasks"] == 20


def test_evaluate_repeats_the_evaluation_at_the_end_of_training(whole, capsys):
    run, done, _ = whole
    before = (run / "evaluation.json").read_bytes()
    assert commands.main(["evaluate", str(run), "--threads", "1"]) == 0
    assert (run / "evaluation.json").read_bytes() == before
    assert capsys.readouterr().out in done.out


def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(whole, tmp_path, capsys):
    run, _, words = whole
    half = tmp_path / "half"
    quiet = ["--trainer.evaluate-tasks", "0"]
    assert cli.main([*words, *quiet, "--iterations", "1", "--run-dir", str(half)]) == 0
    assert cli.main(["--resume", str(half), "--iterations", "3"]) == 0
    assert "from iteration 1 on" in capsys.readouterr().out
    assert [without_time(r) for r in records(half)] == [without_time(r) for r in records(run)]
    one, other = (checkpoint.load_newest(path / "checkpoints").tensors for path in (run, half))
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_a_policy_trained_as_a_baseline_is_filmed(whole, capsys):
    run, _, _ = whole
    words = ["--num-tasks", "1", "--threads", "1", "--format", "mp4", "--size", "64"]
    assert commands.main(["video", str(run), *words]) == 0
    film = Path(capsys.readouterr().out.strip())
    assert film.read_bytes()[4:8] == b"ftyp"
    shutil.rmtree(film.parent)


def test_runs_of_two_modes_are_no_seeds_of_one_experiment(tmp_path, capsys):
    for seed, mode in enumerate(("oracle", "multi-task")):
        words = [*TINY, "--algo", "sb3-ppo", "--learner.mode", mode, "--seed", str(seed)]
        words += ["--iterations", "1", "--trainer.evaluate-tasks", "0"]
        assert cli.main([*words, "--run-dir", str(tmp_path / mode)]) == 0
    capsys.readouterr()
    assert commands.main(["evaluate", str(tmp_path / "oracle"), str(tmp_path / "multi-task")]) == 2
    err = capsys.readouterr().err
    assert one_line(err) and "algo is sb3-ppo-multi-task, of" in err and "sb3-ppo-oracle" in err


def test_help_shows_the_modes_without_torch_and_without_stable_baselines():
    words = ["train.py", "--algo", "sb3-ppo", "--env", "ant-dir", "--help"]
    done = call("-X", "importtime", *words, cwd=REPOSITORY)
    assert done.code == 0 and "--learner.mode {scratch,oracle,multi-task}" in done.out
    assert not re.search(r"\| +(torch|stable_baselines3)$", done.err, re.M)


def test_every_preset_is_read():
    folders = [REPOSITORY / "configs" / algo for algo in ALGORITHMS if algo.startswith("sb3-")]
    paths = [path for folder in folders for path in folder.glob("**/*.yaml")]
    assert len(paths) == 15
    for path in paths:
        algo, env = path.parent.name, path.stem
        config = parse(["--env", env, "--algo", algo])
        assert config.iterations != 500 or config.learner != ALGORITHMS[algo].config()
        rollouts = config.sampler.num_adaptations + 1
        assert rollouts == (2 if algo == "sb3-rl2" else 1)


def test_an_unknown_mode_is_one_line_that_names_the_nearest(capsys):
    words = [*TINY, "--algo", "sb3-ppo", "--learner.mode", "scratsh"]
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert one_line(err) and "did you mean scratch?" in err


PLUGIN = """
from metarl.envs.navigation import DenseGoal, NavigationEnv

class Plain:
    def __init__(self, name):
        env = NavigationEnv(name, DenseGoal(), horizon=20)
        self.spec, self.set_tasks, self.reset, self.step = env.spec, env.set_tasks, env.reset, env.step

def make_env(name, threads):
    return Plain(name)
"""


def test_an_environment_that_cannot_reset_single_rows_is_one_line_with_exit_code_3(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "plain_robot.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = [*TINY, "--algo", "sb3-ppo", "--env", "plain_robot:make_env"]
    assert cli.main(words) == 3
    err = capsys.readouterr().err
    assert one_line(err) and "give it reset_rows" in err
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".py"] in (
        [],
        ["__pycache__"],
    )
