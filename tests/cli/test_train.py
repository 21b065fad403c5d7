"""train.py in processes: exit codes, output and files."""

import json
import re
import resource
import subprocess

import pytest
import torch
import yaml
from commands import (
    ITERATIONS,
    METARL,
    QUIET,
    REPOSITORY,
    TINY,
    TRAIN,
    call,
    is_one_line,
    read_files,
    read_records,
    start,
)

from metarl import builders
from metarl.cli import train as cli
from metarl.core.errors import ConfigError, EnvironmentContractError, run_command

# --- an uninterrupted run -------------------------------------------------------------------------


def test_run_folder_has_all_files(finished_run):
    run, done = finished_run
    assert (done.code, done.err) == (0, "")
    assert [r["iteration"] for r in read_records(run)] == list(range(1, ITERATIONS + 1))
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["env"], config["algo"], config["iterations"]) == (
        "navigation-2d",
        "maml-trpo",
        ITERATIONS,
    )
    record = json.loads((run / "run.json").read_text())
    assert record["device"] == "cpu" and record["versions"]["torch"] == torch.__version__
    assert list(run.glob("events.out.tfevents.*"))
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert len(names) == 3 and names[-1] == f"it_{ITERATIONS:08d}"
    film = (run / "videos" / "adaptation.mp4").read_bytes()
    assert film[4:8] == b"ftyp" and len(film) > 10_000
    assert not list(run.rglob(".*"))  # unfinished files have hidden names


def test_evaluation_after_training_has_all_keys(finished_run):
    run, done = finished_run
    result = json.loads((run / "evaluation.json").read_text())
    assert (result["env"], result["algo"]) == ("navigation-2d", "maml-trpo")
    assert (result["num_tasks"], result["episodes_per_task"]) == (3, 2)
    assert len(result["env_steps_per_rollout"]) == 4 and result["floors"]
    returns = result["returns"]
    assert [len(returns[key]) for key in ("mean", "stderr", "ci95", "per_task")] == [4] * 4
    assert all(len(row) == 3 for row in returns["per_task"])
    assert f"{returns['mean'][3]:.2f}" in done.out and "floors: stand still" in done.out


def test_piped_progress_is_plain_text(finished_run):
    out = finished_run[1].out
    assert out.replace("\n", "").isprintable() and out.isascii()
    lines = [line for line in out.splitlines() if "  steps " in line]
    assert lines[0].startswith(f"iteration 1/{ITERATIONS}  steps 8")
    assert lines[-1].startswith(f"iteration {ITERATIONS}/{ITERATIONS}")
    assert all(
        re.search(r"return -[\d.]+ -> -[\d.]+  kl 0\.\d+  left about \d+:\d\d:\d\d$", line)
        for line in lines
    )
    assert out.splitlines()[-1] == "done: run"


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--env navigation2d", "did you mean navigation-2d?"),
        ("--env navigation-2d --algo maml-trop", "did you mean maml-trpo?"),
        ("--env navigation-2d --learner.iner-lr 0.1", "did you mean --learner.inner-lr?"),
        ("--env navigation-2d --learner.max-kl -1", "learner.max_kl = -1.0: must be"),
        ("--env no_such_module:make", "no module 'no_such_module' can be imported"),
        ("--seed 1", "--env is missing"),
    ],
)
def test_wrong_arguments_write_nothing(arguments, message, tmp_path):
    done = call(*TRAIN, *arguments.split(), cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert is_one_line(done.err) and message in done.err
    assert list(tmp_path.iterdir()) == []


def test_existing_run_folder_is_refused_and_unchanged(run_copy, capsys):
    before = read_files(run_copy)
    assert cli.main([*TINY, *QUIET, "--run-dir", str(run_copy)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and is_one_line(err) and f"continue it with --resume {run_copy}" in err
    assert read_files(run_copy) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_has_exit_code_6_and_a_hint(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*TINY, *QUIET, "--device", "cuda"]) == 6
    err = capsys.readouterr().err
    assert is_one_line(err) and "use --device cpu" in err and list(tmp_path.iterdir()) == []


def test_full_disk_has_exit_code_6(capsys):
    def fill():
        raise OSError(28, "No space left on device", "metrics.jsonl")

    assert run_command(fill) == 6
    err = capsys.readouterr().err
    assert is_one_line(err) and "No space left on device: 'metrics.jsonl'" in err


def test_list_envs_describes_an_environment(capsys):
    assert cli.main(["--env", "hopper-vel-wind-params", "--list-envs"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("hopper-vel-wind-params ") and "floors" in text
    # a planar robot has no wind from the side
    assert "wind_x" in text and "wind_y" not in text
    assert "40 fixed training tasks (the source tests on 10)" in text
    assert cli.main(["--env", "hoper-vel", "--list-envs"]) == 2
    assert "did you mean hopper-vel?" in capsys.readouterr().err


def test_closed_output_has_exit_code_6(tmp_path):
    process = start(*TRAIN, "--list-envs", cwd=tmp_path)
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait() == 6 and is_one_line(err) and "the reader of the output has ended" in err
    process.stderr.close()


# --- fast answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ([*TRAIN, "--help"], "--learner.inner-lr"),
        ([*TRAIN, "--list-envs"], "navigation-2d"),
        ([*METARL, "--help"], "evaluate"),
        ([*METARL, "train", "--help"], "--learner.inner-lr"),
    ],
)
def test_help_and_list_are_fast_and_without_torch(tmp_path, command, expected):
    log = tmp_path / "imports"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with log.open("w") as stderr:
        python, *arguments = command
        timed = [python, "-X", "importtime", *arguments]
        done = subprocess.run(timed, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=stderr)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    out, err = done.stdout.decode(), log.read_text()
    assert done.returncode == 0 and expected in out
    # processor time, because wall-clock time depends on other processes
    assert used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime < 1.0
    assert re.search(r"\| +metarl\.config\.schema$", err, re.M)
    assert not re.search(r"\| +torch$", err, re.M)


# --- plug-ins -------------------------------------------------------------------------------------

PLUGIN = """
from metarl.envs.navigation import DenseGoal, NavigationEnv

def make_env(name, threads):
    return NavigationEnv(name, DenseGoal(half_width=0.1), horizon=20)

def breaks(name, threads):
    raise RuntimeError("no robot\\nis connected")

def gym_env(name, threads):
    import gymnasium
    return gymnasium.make("CartPole-v1")
"""


@pytest.mark.parametrize("place", ["current directory", "PYTHONPATH"])
def test_plugin_is_found_and_trained(place, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    folder = here if place == "current directory" else there
    (folder / "my_robot.py").write_text(PLUGIN)
    arguments = [*TINY, *QUIET, "--env", "my_robot:make_env", "--iterations", "1"]
    variables = {"PYTHONPATH": str(there)} if folder == there else {}
    done = call(*TRAIN, *arguments, "--run-dir", "run", cwd=here, **variables)
    assert (done.code, done.err) == (0, ""), done.err
    assert "on my_robot:make_env" in done.out and read_records(here / "run")[0]["env_steps"] <= 160


@pytest.mark.parametrize(
    ("attribute", "error", "message"),
    [
        ("breaks", EnvironmentContractError, r"RuntimeError: no robot is connected .*, line 8"),
        ("gym_env", EnvironmentContractError, "lacks set_tasks; metarl/core/env.py"),
        ("make_evn", ConfigError, "did you mean make_env?"),
    ],
)
def test_broken_plugin_names_the_place(attribute, error, message, tmp_path, monkeypatch):
    (tmp_path / "broken_robot.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(error, match=message) as caught:
        builders.make_env(f"broken_robot:{attribute}")
    assert "\n" not in str(caught.value)
