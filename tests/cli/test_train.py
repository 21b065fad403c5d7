"""train.py as its users start it: processes, exit codes, files."""

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
    content,
    one_line,
    records,
    start,
)

from metarl import experiment as compose
from metarl.cli import train as cli
from metarl.core.errors import ConfigError, EnvironmentContractError, reporting

# ---------------------------------------------------------------------------------------- a whole run


def test_a_run_leaves_all_that_is_promised(whole):
    run, done = whole
    assert (done.code, done.err) == (0, "")
    assert [r["iteration"] for r in records(run)] == list(range(1, ITERATIONS + 1))
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
    assert not list(run.rglob(".*"))  # what is being written has a hidden name


def test_the_evaluation_at_the_end_has_the_keys_of_the_design(whole):
    run, done = whole
    result = json.loads((run / "evaluation.json").read_text())
    assert (result["env"], result["algo"]) == ("navigation-2d", "maml-trpo")
    assert (result["num_tasks"], result["episodes_per_task"]) == (3, 2)
    assert len(result["env_steps_per_rollout"]) == 4 and result["floors"]
    returns = result["returns"]
    assert [len(returns[key]) for key in ("mean", "stderr", "ci95", "per_task")] == [4] * 4
    assert all(len(row) == 3 for row in returns["per_task"])
    assert f"{returns['mean'][3]:.2f}" in done.out and "floors: stand still" in done.out


def test_piped_progress_is_plain_lines(whole):
    out = whole[1].out
    assert out.replace("\n", "").isprintable() and out.isascii()
    lines = [line for line in out.splitlines() if "  steps " in line]
    assert lines[0].startswith(f"iteration 1/{ITERATIONS}  steps 8")
    assert lines[-1].startswith(f"iteration {ITERATIONS}/{ITERATIONS}")
    shown = r"return -[\d.]+ -> -[\d.]+  kl 0\.\d+  left about \d"
    assert all(re.search(shown, line) for line in lines)
    assert out.splitlines()[-1] == "done: run"


# --------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        ("--env navigation2d", "did you mean 'navigation-2d'?"),
        ("--env navigation-2d --algo maml-trop", "did you mean maml-trpo?"),
        ("--env navigation-2d --learner.iner-lr 0.1", "did you mean --learner.inner-lr?"),
        ("--env navigation-2d --learner.max-kl -1", "learner.max_kl = -1.0: must be"),
        ("--env no_such_module:make", "no module 'no_such_module' can be imported"),
        ("--seed 1", "--env is missing"),
    ],
)
def test_what_does_not_exist_is_one_line_with_the_nearest_name_and_nothing_is_written(
    words, nearest, tmp_path
):
    done = call(*TRAIN, *words.split(), cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert one_line(done.err) and nearest in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_that_exists_is_refused_and_stays_as_it_was(copy, capsys):
    before = content(copy)
    assert cli.train_main([*TINY, *QUIET, "--run-dir", str(copy)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and one_line(err) and f"with --resume {copy}" in err
    assert content(copy) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_has_exit_code_6_and_the_cure(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.train_main([*TINY, *QUIET, "--device", "cuda"]) == 6
    err = capsys.readouterr().err
    assert one_line(err) and "use --device cpu" in err and list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_with_exit_code_6(capsys):
    def full():
        raise OSError(28, "No space left on device", "metrics.jsonl")

    assert reporting(full) == 6
    err = capsys.readouterr().err
    assert one_line(err) and "No space left on device: 'metrics.jsonl'" in err


def test_any_environment_is_described_by_name(capsys):
    assert cli.train_main(["--env", "hopper-vel-wind-params", "--list-envs"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("hopper-vel-wind-params ") and "floors" in said
    # a planar robot has no wind from the side, and its range follows from its weight
    assert "wind_x" in said and "wind_y" not in said
    assert "40 fixed training tasks, tested on 10" in said
    assert cli.train_main(["--env", "hoper-vel", "--list-envs"]) == 2
    assert "did you mean 'hopper-vel'?" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_one_line(tmp_path):
    process = start(*TRAIN, "--list-envs", cwd=tmp_path)
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait() == 6 and one_line(err) and "nobody reads the output" in err
    process.stderr.close()


# ------------------------------------------------------------------------------------------ quick answers


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([*TRAIN, "--help"], "--learner.inner-lr"),
        ([*TRAIN, "--list-envs"], "navigation-2d"),
        ([*METARL, "--help"], "evaluate"),
    ],
)
def test_help_and_list_are_fast_and_without_torch(tmp_path, words, expected):
    log = tmp_path / "imports"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with log.open("w") as stderr:
        command = [str(word) for word in (words[0], "-X", "importtime", *words[1:])]
        done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=stderr)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    out, err = done.stdout.decode(), log.read_text()
    assert done.returncode == 0 and expected in out
    # processor time, not wall-clock time, which other processes share
    assert used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime < 1.0
    assert re.search(r"\| +metarl\.config\.schema$", err, re.M)
    assert not re.search(r"\| +torch$", err, re.M)


# ----------------------------------------------------------------------------------------------- plug-ins

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
def test_a_plug_in_is_found_and_trained(place, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    folder = here if place == "current directory" else there
    (folder / "my_robot.py").write_text(PLUGIN)
    words = [*TINY, *QUIET, "--env", "my_robot:make_env", "--iterations", "1", "--run-dir", "run"]
    variables = {"PYTHONPATH": str(there)} if folder == there else {}
    done = call(*TRAIN, *words, cwd=here, **variables)
    assert (done.code, done.err) == (0, ""), done.err
    assert "on my_robot:make_env" in done.out and records(here / "run")[0]["env_steps"] <= 160


@pytest.mark.parametrize(
    ("attribute", "failure", "words"),
    [
        ("breaks", EnvironmentContractError, r"RuntimeError: no robot is connected .*, line 8"),
        ("gym_env", EnvironmentContractError, "lacks set_tasks; metarl/core/env.py"),
        ("make_evn", ConfigError, "did you mean 'make_env'?"),
    ],
)
def test_a_plug_in_that_breaks_is_one_line_that_names_the_place(
    attribute, failure, words, tmp_path, monkeypatch
):
    (tmp_path / "broken_robot.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(failure, match=words) as caught:
        compose.make_env(f"broken_robot:{attribute}")
    assert "\n" not in str(caught.value)
