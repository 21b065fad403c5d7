"""The commands with the baselines of Stable-Baselines3: run folders, resume and errors."""

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
from commands import is_one_line, read_records

from metarl.cli import commands
from metarl.cli import train as cli
from metarl.config.schema import parse
from metarl.learners.registry import ALGORITHMS
from metarl.runs import checkpoint
from metarl.runs.logger import without_time

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = (
    "--env navigation-2d --device cpu --sampler.num-tasks 3 --sampler.num-episodes 2 "
    "--sampler.threads 1 --trainer.no-video --trainer.no-tensorboard --learner.epochs 2 "
    "--learner.minibatches 4 --iterations 3"
).split()
ALGOS = {
    "sb3-ppo": ["--learner.mode", "scratch"],
    "sb3-trpo": ["--learner.mode", "oracle", "--sampler.num-adaptations", "0"],
    "sb3-rl2": ["--learner.lstm-size", "8", "--sampler.num-adaptations", "1"],
}


def call(*arguments, cwd):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)


@pytest.fixture(scope="module", params=ALGOS)
def baseline_run(request, tmp_path_factory):
    """An uninterrupted run of each baseline: folder, outcome, arguments."""
    arguments = [*TINY, "--algo", request.param, *ALGOS[request.param]]
    cwd = tmp_path_factory.mktemp(request.param)
    done = call(REPOSITORY / "train.py", *arguments, "--run-dir", "run", cwd=cwd)
    return cwd / "run", done, arguments


def test_run_folder_has_the_usual_files_and_no_pickle(baseline_run):
    run, done, arguments = baseline_run
    assert (done.code, done.err) == (0, "")
    algo = arguments[arguments.index("--algo") + 1]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["algo"] == algo and config["env"] == "navigation-2d"
    assert [r["iteration"] for r in read_records(run)] == [1, 2, 3]
    for record in read_records(run):
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


def test_evaluation_has_returns_and_experience(baseline_run):
    run, done, arguments = baseline_run
    result = json.loads((run / "evaluation.json").read_text())
    assert f"{result['returns']['mean'][-1]:.2f}" in done.out
    names = ("sb3-ppo-scratch", "sb3-trpo-oracle", "sb3-rl2")
    assert result["algo"] == next(
        name for name in names if arguments[arguments.index("--algo") + 1] in name
    )
    assert f"training {result['algo']} on navigation-2d" in done.out
    if "scratch" in arguments:
        # 2 episodes of 100 steps in each iteration; before each of 3 updates, and after the last
        assert result["experience"]["env_steps"] == [0.0, 200.0, 400.0, 600.0]
        assert result["num_tasks"] == 3 and "from scratch" in result["note"]
        for point, record in zip(result["returns"]["mean"], read_records(run), strict=False):
            assert point == pytest.approx(record["return/0"])
    else:
        assert len(result["returns"]["mean"]) == 4 and result["num_tasks"] == 20


@pytest.mark.parametrize("flag", ["--num-tasks 2", "--num-adaptations 1", "--deterministic"])
def test_flag_without_effect_on_policies_from_scratch(flag, baseline_run, capsys):
    run, _, arguments = baseline_run
    if "scratch" in arguments:
        assert commands.main(["evaluate", str(run), *flag.split()]) == 2
        err = capsys.readouterr().err
        assert f"{flag.split()[0]}: has no effect on policies from scratch" in err


def test_evaluate_repeats_the_one_after_training(baseline_run, capsys):
    run, done, _ = baseline_run
    before = (run / "evaluation.json").read_bytes()
    assert commands.main(["evaluate", str(run), "--threads", "1"]) == 0
    assert (run / "evaluation.json").read_bytes() == before
    assert not (run / "evaluations").exists()
    assert capsys.readouterr().out in done.out


def test_resumed_run_equals_the_uninterrupted_one(baseline_run, tmp_path, capsys):
    run, _, arguments = baseline_run
    half = tmp_path / "half"
    quiet = ["--trainer.evaluate-tasks", "0"]
    assert cli.main([*arguments, *quiet, "--iterations", "1", "--run-dir", str(half)]) == 0
    assert cli.main(["--resume", str(half), "--iterations", "3"]) == 0
    assert "from iteration 1 on" in capsys.readouterr().out
    assert [without_time(r) for r in read_records(half)] == [
        without_time(r) for r in read_records(run)
    ]
    one, other = (checkpoint.load_newest(path / "checkpoints").tensors for path in (run, half))
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_video_films_a_baseline(baseline_run, capsys):
    run, _, _ = baseline_run
    flags = ["--num-tasks", "1", "--threads", "1", "--format", "mp4", "--size", "64"]
    assert commands.main(["video", str(run), *flags]) == 0
    video = Path(capsys.readouterr().out.strip())
    assert video.read_bytes()[4:8] == b"ftyp"
    shutil.rmtree(video.parent)


def test_evaluate_refuses_runs_of_two_modes(tmp_path, capsys):
    for seed, mode in enumerate(("oracle", "multi-task")):
        arguments = [*TINY, "--algo", "sb3-ppo", "--learner.mode", mode, "--seed", str(seed)]
        arguments += ["--iterations", "1", "--trainer.evaluate-tasks", "0"]
        assert cli.main([*arguments, "--run-dir", str(tmp_path / mode)]) == 0
    capsys.readouterr()
    assert commands.main(["evaluate", str(tmp_path / "oracle"), str(tmp_path / "multi-task")]) == 2
    err = capsys.readouterr().err
    assert is_one_line(err) and "algo is sb3-ppo-multi-task, of" in err and "sb3-ppo-oracle" in err


def test_help_shows_the_modes_without_torch_and_sb3():
    command = ["train.py", "--algo", "sb3-ppo", "--env", "ant-dir", "--help"]
    done = call("-X", "importtime", *command, cwd=REPOSITORY)
    assert done.code == 0 and "--learner.mode {scratch,oracle,multi-task}" in done.out
    assert not re.search(r"\| +(torch|stable_baselines3)$", done.err, re.M)


def test_presets_are_read_and_fit_the_algorithm():
    folders = [REPOSITORY / "configs" / algo for algo in ALGORITHMS if algo.startswith("sb3-")]
    paths = [path for folder in folders for path in folder.glob("**/*.yaml")]
    assert len(paths) == 17
    for path in paths:
        algo, env = path.parent.name, path.stem
        config = parse(["--env", env, "--algo", algo])
        assert config.iterations != 500 or config.learner != ALGORITHMS[algo].config()
        rollouts = config.sampler.num_adaptations + 1
        assert rollouts == (2 if algo == "sb3-rl2" else 1)


def test_unknown_mode_names_the_nearest(capsys):
    arguments = [*TINY, "--algo", "sb3-ppo", "--learner.mode", "scratsh"]
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert is_one_line(err) and "did you mean scratch?" in err


PLUGIN = """
from metarl.envs.navigation import DenseGoal, NavigationEnv

class Plain:
    def __init__(self, name):
        env = NavigationEnv(name, DenseGoal(), horizon=20)
        self.spec, self.set_tasks = env.spec, env.set_tasks
        self.reset, self.step, self.close = env.reset, env.step, env.close

def make_env(name, threads):
    return Plain(name)
"""


def test_environment_without_reset_rows_has_exit_code_3(tmp_path, monkeypatch, capsys):
    (tmp_path / "plain_robot.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    arguments = [*TINY, "--algo", "sb3-ppo", "--env", "plain_robot:make_env"]
    assert cli.main(arguments) == 3
    err = capsys.readouterr().err
    assert is_one_line(err) and "give it reset_rows" in err
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".py"] in (
        [],
        ["__pycache__"],
    )
