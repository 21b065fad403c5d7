"""Start of a command: help, version, lists, config files, several seeds."""

import argparse
from pathlib import Path

import pytest
from commands import METARL, TINY, TRAIN, call, is_one_line, read_records

from metarl.cli import commands
from metarl.cli import train as cli
from metarl.cli.commands import _COMMANDS
from metarl.config.schema import TrainConfig, parse, to_yaml
from metarl.core.errors import NumericalError, Preempted, Terminated
from metarl.evaluation.results import read
from metarl.learners.registry import ALGORITHMS

QUIET = "--trainer.evaluate-tasks 0 --trainer.no-video --trainer.logger none".split()


def test_bare_metarl_prints_help(capsys):
    with pytest.raises(SystemExit) as caught:
        commands.main([])
    out, err = capsys.readouterr()
    assert caught.value.code == 0 and err == ""
    assert all(name in out for name in ("train", "evaluate", "video", "report", "check-env"))


@pytest.mark.parametrize("command", [(*METARL, "--version"), (*TRAIN, "--version")])
def test_version_is_printed(command, tmp_path):
    done = call(*command, cwd=tmp_path, PYTHONPATH=str(TRAIN[1]).removesuffix("/train.py"))
    assert (done.code, done.err) == (0, "") and done.out.startswith("metarl 0.")


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_argument_of_a_verb_has_a_help(name):
    parser = argparse.ArgumentParser()
    _COMMANDS[name][1](parser)
    lacking = [each.option_strings or each.dest for each in parser._actions if not each.help]
    assert not lacking


def test_algorithms_are_in_their_list_and_in_the_help(capsys):
    assert cli.main(["--list-algos"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines][: len(ALGORITHMS)] == list(ALGORITHMS)
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert all(name in text for name in ALGORITHMS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ant-dir"], "a value without a flag: ant-dir; an environment is given as --env ant-dir"),
        (["--env", "ant-dir", "--total-timesteps", "5"], "unknown flag --total-timesteps (--help"),
        (["--env", "ant-dir", "--algo", "dreamer"], "--algo dreamer: no such learner"),
        (["--env", "ant-dir", "--seeds", "1,1"], "must be distinct numbers >= 0"),
        (["--env", "ant-dir", "--seeds", "a"], "--seeds = ['a']: must be a whole number"),
        (["--env", "ant-dir", "--seeds", "0,,1"], "--seeds '0,,1': an entry is empty; separate"),
        (["--env", "ant-dir", "--seeds", "0,1,"], "--seeds '0,1,': an entry is empty; separate"),
        (["--env", "ant-dir", "--seeds", ""], "--seeds is empty: name distinct numbers >= 0, such"),
        (["--env", "ant-dir", "--seeds"], "--seeds is empty: name distinct numbers >= 0, such"),
        (["--env", "ant-dir", "--config", "no.yaml"], "no.yaml: No such file"),
        (
            ["--env", "ant-dir", "--init-from", "no", "--run-dir", "x"],
            "--init-from no is not a run folder",
        ),
    ],
)
def test_wrong_arguments_give_no_far_suggestion(arguments, message, capsys, tmp_path):
    assert cli.main([*arguments]) in (2, 5)
    out, err = capsys.readouterr()
    assert out == "" and is_one_line(err) and message in err
    assert "did you mean" not in err


def test_unknown_command_names_the_nearest(capsys):
    assert commands.main(["evalute", "x"]) == 2
    assert "unknown command evalute; did you mean evaluate?" in capsys.readouterr().err


def test_config_file_overrides_preset_and_flags_override_it(tmp_path, capsys):
    file = tmp_path / "my.yaml"
    file.write_text("env: navigation-2d\niterations: 3\nlearner: {inner_lr: 0.3}\nseed: 5\n")
    arguments = ["--config", str(file), *TINY[2:], *QUIET, "--iterations", "1"]
    assert cli.main([*arguments, "--run-dir", str(tmp_path / "run")]) == 0
    text = (tmp_path / "run" / "config.yaml").read_text()
    assert "env: navigation-2d" in text and "inner_lr: 0.3" in text and "seed: 5" in text
    assert len(read_records(tmp_path / "run")) == 1
    file.write_text("env: navigation-2d\nlearner: {inner_rl: 0.3}\n")
    capsys.readouterr()
    assert cli.main(["--config", str(file)]) == 2
    err = capsys.readouterr().err
    assert is_one_line(err) and f"{file}: unknown key learner.inner_rl" in err


def test_seeds_make_sibling_folders(tmp_path):
    arguments = [*TINY, *QUIET, "--iterations", "1", "--seeds", "0,2"]
    assert cli.main([*arguments, "--run-dir", str(tmp_path / "runs")]) == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["seed-0", "seed-2"]
    one, other = (read_records(tmp_path / "runs" / f"seed-{seed}")[0] for seed in (0, 2))
    assert one["return_pre"] != other["return_pre"]
    assert "seed: 2" in (tmp_path / "runs" / "seed-2" / "config.yaml").read_text()


def test_seeds_are_evaluated_together_at_the_end(tmp_path, capsys):
    arguments = [*TINY, *QUIET[2:], "--iterations", "1", "--seeds", "0,2"]
    arguments += ["--trainer.evaluate-tasks", "3", "--run-dir", str(tmp_path / "runs")]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    _, _, together = out.partition("\nall:\n")
    assert together.startswith("navigation-2d  maml-trpo  2 seeds,  6 held-out tasks x ")
    assert "95 % intervals: over 2 seeds and their tasks (Student's t, 1 degree of" in together
    runs = [read(tmp_path / "runs" / f"seed-{seed}") for seed in (0, 2)]
    mean = sum(run["returns"]["mean"][3] for run in runs) / 2
    assert f" {mean:.2f} " in together


def test_seeds_check_all_folders_before_training(tmp_path, capsys):
    (tmp_path / "runs" / "seed-2" / "mine").mkdir(parents=True)
    args = [*TINY, *QUIET, "--seeds", "0,2", "--run-dir", str(tmp_path / "runs")]
    assert cli.main(args) == 2
    assert "seed-2 exists and is never overwritten" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "seed-0").exists()


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (NumericalError("iteration 1: not finite"), 4, "error: iteration 1: not finite"),
        (Preempted("stopped"), 75, "stopped"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Terminated("the last one is kept"), 143, "interrupted; the last one is kept"),
    ],
)
def test_stop_of_a_seed_names_those_that_remain(error, code, text, monkeypatch, capsys):
    def fail(config):
        if config.seed == 3:
            raise error
        return Path(f"seed-{config.seed}")

    monkeypatch.setattr(cli, "train", fail)
    assert cli.main([*TINY, "--seeds", "2,3,5,4"]) == code
    hint = "the other seeds are not trained yet: give the same command --seeds 5,4"
    assert capsys.readouterr().err == f"metarl: {text}; {hint}\n"


@pytest.mark.parametrize("error", [NumericalError("not finite"), KeyboardInterrupt("not finite")])
def test_stop_of_the_last_seed_has_no_hint(error, monkeypatch, capsys):
    def fail(config):
        raise error

    monkeypatch.setattr(cli, "train", fail)
    assert cli.main([*TINY, "--seeds", "2"]) > 0
    assert capsys.readouterr().err.endswith(" not finite\n")


def make_run(path):
    """Writes what a run has after its first iteration."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(to_yaml(parse([*TINY, "--seed", "5"])))
    (path / "metrics.jsonl").write_text('{"iteration": 1}\n')


def test_seeds_are_refused_inside_a_run(tmp_path, capsys):
    run, file = tmp_path / "run", tmp_path / "file"
    make_run(run)
    file.touch()
    cases = {
        run: "is a run itself, as it has metrics.jsonl; name another folder",
        file: "is a file; name a folder",
        file / "below": f"{file} is a file; name another folder",
    }
    for path, message in cases.items():
        assert cli.main([*TINY, *QUIET, "--seeds", "0,2", "--run-dir", str(path)]) == 2
        err = capsys.readouterr().err
        assert is_one_line(err) and f"--run-dir {path}: {message}" in err
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "metrics.jsonl"]


def test_seeds_are_refused_beside_runs_of_other_settings(tmp_path, capsys):
    make_run(tmp_path / "seed-5")
    args = [*TINY, *QUIET, "--run-dir", str(tmp_path), "--seeds", "0,2"]
    assert cli.main([*args, "--learner.max-kl", "0.7"]) == 2
    err = capsys.readouterr().err
    assert is_one_line(err) and "seed-5 has learner.max_kl 0.05, now 0.7; choose another" in err
    assert [path.name for path in tmp_path.iterdir()] == ["seed-5"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--seed", "2", "--seeds", "0,1"], "--seed and --seeds: give one of them"),
        (["--resume", "RUN", "--algo", "rl2"], "--algo rl2: the run has maml-trpo; leave the flag"),
    ],
)
def test_contradicting_flags_are_refused(args, message, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(to_yaml(TrainConfig(env="navigation-2d")))
    args = [str(run) if word == "RUN" else word for word in args]
    assert cli.main(["--env", "navigation-2d", *args]) == 2
    assert message in capsys.readouterr().err


def test_config_of_a_run_is_a_config_file(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(TrainConfig(env="navigation-2d", iterations=7, seed=3)))
    config = parse(["--config", str(file)])
    assert (config.env, config.iterations, config.seed) == ("navigation-2d", 7, 3)
