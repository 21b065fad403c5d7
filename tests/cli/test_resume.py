"""Resuming runs that were stopped, killed or damaged."""

import json
import os
import re
import shlex
import shutil
import signal
import sys

import pytest
import torch
from commands import (
    ITERATIONS,
    QUIET,
    TINY,
    TRAIN,
    call,
    damage,
    is_one_line,
    read_files,
    read_records,
)

from metarl.cli import train as cli
from metarl.runs import checkpoint
from metarl.runs import folder as run_folder
from metarl.runs import logger as log
from metarl.runs.logger import without_time

# --- kill and resume ------------------------------------------------------------------------------


def test_resumed_run_equals_the_uninterrupted_one(finished_run, interrupted_run):
    run, outcomes = interrupted_run
    assert [done.code for done in outcomes] == [-signal.SIGKILL, 75, 75, 0]
    expected, resumed = read_records(finished_run[0]), read_records(run)
    assert [without_time(r) for r in resumed] == [without_time(r) for r in expected]
    one, other = (checkpoint.load_newest(path / "checkpoints") for path in (finished_run[0], run))
    assert one.step == other.step == ITERATIONS and one.tensors.keys() == other.tensors.keys()
    for name, value in one.tensors.items():
        assert torch.equal(value, other.tensors[name]), name
    assert one.state["env_steps"] == other.state["env_steps"]
    seconds = [r["seconds"] for r in resumed]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize(("index", "name"), [(1, "SIGTERM"), (2, "SIGINT")])
def test_signal_saves_and_prints_the_resume_command(interrupted_run, index, name):
    run, outcomes = interrupted_run
    notice, last = outcomes[index].err.strip().splitlines()
    assert notice.startswith(f"metarl: {name}: stopping after this iteration")
    stopped, _, command = last.partition("; resume with: ")
    assert re.fullmatch(rf"metarl: stopped by {name} after iteration \d+", stopped)
    assert shlex.split(command) == ["python", TRAIN[1], "--resume", str(run)]
    assert "done" not in outcomes[index].out and not (run / "evaluation.json").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_in_iteration_1_prints_the_resume_command(
    number, code, tmp_path, monkeypatch, finished_run, capfd
):
    def kill_twice(*_):
        for _ in range(2):
            os.kill(os.getpid(), number)

    run, before = tmp_path / "run", signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        patched.setattr("metarl.envs.navigation.NavigationEnv.set_tasks", kill_twice)
        arguments = [*TINY, *QUIET, "--iterations", "2", "--run-dir", str(run)]
        patched.setattr(sys, "argv", [TRAIN[1]])
        assert cli.main(arguments) == code
    last = capfd.readouterr().err.splitlines()[-1]
    message, _, command = last.partition("; resume with: ")
    assert message == "metarl: interrupted; the last checkpoint is kept"
    assert shlex.split(command) == ["python", TRAIN[1], "--resume", str(run)]
    assert signal.getsignal(signal.SIGTERM) is before
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["it_00000000"]
    assert cli.main(["--resume", str(run)]) == 0
    expected = [without_time(record) for record in read_records(finished_run[0])[:2]]
    assert [without_time(record) for record in read_records(run)] == expected


def test_full_disk_names_the_file_and_can_be_resumed(tmp_path, monkeypatch, capsys):
    append, count = log._append, []

    def append_until_full(file, line):
        count.append(1)
        if len(count) == 2:
            raise OSError(28, "No space left on device")
        append(file, line)

    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(log, "_append", append_until_full)
        patched.setattr(sys, "argv", [TRAIN[1]])
        arguments = [*TINY, *QUIET, "--iterations", "3", "--run-dir", str(run)]
        assert cli.main(arguments) == 6
    err = capsys.readouterr().err
    assert err.startswith(
        f"metarl: error: {run / 'metrics.jsonl'}: No space left on device; make room"
    )
    assert is_one_line(err) and err.endswith(f"resume with: python {TRAIN[1]} --resume {run}\n")
    assert f"the last checkpoint is {run / 'checkpoints' / 'it_00000001'}" in err
    # the iteration without a record is repeated
    assert cli.main(["--resume", str(run)]) == 0 and capsys.readouterr().err == ""
    assert [record["iteration"] for record in read_records(run)] == [1, 2, 3]


def test_interrupt_before_a_checkpoint_has_no_hint(tmp_path, monkeypatch, capsys):
    def terminate(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("metarl.experiment.record_start", terminate)
    assert cli.main([*TINY, *QUIET, "--run-dir", str(tmp_path / "run")]) == 143
    assert capsys.readouterr().err == "metarl: interrupted\n"


@pytest.mark.parametrize(
    "step",
    [
        "metarl.experiment.write_atomically",
        "metarl.experiment.provenance.write_run_json",
        "metarl.experiment.open_log",
        "metarl.runs.checkpoint.fsync_directory",
    ],
)
def test_same_command_starts_a_run_anew_without_training(step, tmp_path, monkeypatch, capsys):
    def kill(*_args, **_named):
        raise SystemExit(9)

    run = tmp_path / "run"
    arguments = [*TINY, *QUIET, "--iterations", "1", "--run-dir", str(run)]
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(step, kill)
        cli.main(arguments)
    assert run.is_dir()
    assert cli.main(["--resume", str(run)]) == 5
    err = capsys.readouterr().err
    assert is_one_line(err)
    if list(run.iterdir()) != []:
        assert f"with --run-dir {run}, starts it anew" in err
    assert cli.main(arguments) == 0
    assert len(read_records(run)) == 1 and not json.loads((run / "run.json").read_text())["resumed"]
    assert cli.main(arguments) == 2
    assert f"continue it with --resume {run}\n" in capsys.readouterr().err


def test_failure_before_a_checkpoint_does_not_advise_to_resume(tmp_path, monkeypatch, capsys):
    def fill(*_args):
        raise OSError(28, "No space left on device")

    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr("metarl.runs.checkpoint.write_new", fill)
        assert cli.main([*TINY, *QUIET, "--run-dir", str(run)]) == 6
    err = capsys.readouterr().err
    assert is_one_line(err) and err.endswith("nothing is saved yet; the same command starts anew\n")


def test_resume_says_which_checkpoint_it_takes(run_copy, capsys):
    newest = run_copy / "checkpoints" / f"it_{ITERATIONS:08d}"
    shutil.rmtree(newest)
    newest.symlink_to("nowhere")
    assert cli.main(["--resume", str(run_copy)]) == 0
    err = capsys.readouterr().err
    assert is_one_line(err) and f"passed over {newest.name}, which is a link to nothing" in err
    assert f"going on from it_{ITERATIONS - 1:08d}" in err
    assert cli.main(["--resume", str(run_copy)]) == 0 and capsys.readouterr().err == ""


def test_resume_is_recorded_and_keeps_reproducibility(interrupted_run):
    run, outcomes = interrupted_run
    assert len(json.loads((run / "run.json").read_text())["resumed"]) == 3
    assert "no longer repeats" not in "".join(done.err for done in outcomes)
    assert outcomes[3].err == "" and "from iteration" in outcomes[3].out


def test_resume_of_a_finished_run_removes_what_a_kill_left(run_copy, capsys):
    """A kill after the last checkpoint became visible, while an older one was removed."""
    checkpoints = run_copy / "checkpoints"
    kept = sorted(path.name for path in checkpoints.iterdir())
    for left in (checkpoints / ".saving-old-it_00000002", checkpoints / "replay" / ".saving-x"):
        left.mkdir(parents=True)
        (left / "state.json").write_text("{}")
    assert cli.main(["--resume", str(run_copy)]) == 0
    assert "is finished" in capsys.readouterr().out
    assert not list(checkpoints.rglob(".saving*"))
    assert sorted(path.name for path in checkpoints.iterdir()) == sorted([*kept, "replay"])


def test_resume_of_a_finished_run_changes_nothing(run_copy, capsys):
    before = read_files(run_copy)
    assert cli.main(["--resume", str(run_copy)]) == 0
    out, err = capsys.readouterr()
    assert f"{run_copy} is finished: {ITERATIONS} iterations are done; raise --iterations" in out
    assert out.count("\n") == 1 and err == "" and read_files(run_copy) == before


def test_resume_makes_a_missing_evaluation_once(run_copy, capsys):
    arguments = ["--resume", str(run_copy), "--trainer.evaluate-tasks", "2"]
    assert cli.main(arguments) == 0 and "2 held-out tasks" in capsys.readouterr().out
    before = read_files(run_copy)
    assert cli.main(arguments) == 0 and "held-out" not in capsys.readouterr().out
    assert read_files(run_copy) == before


@pytest.mark.parametrize("damage", ["other checkpoint", "half a file"])
def test_resume_repeats_an_evaluation_of_another_checkpoint(damage, run_copy, capsys):
    arguments = ["--resume", str(run_copy), "--trainer.evaluate-tasks", "2"]
    assert cli.main(arguments) == 0
    path = run_copy / "evaluation.json"
    current = path.read_text()
    older = {**json.loads(current), "checkpoint": {"iteration": 1, "env_steps": 800}}
    path.write_text(json.dumps(older) if damage == "other checkpoint" else current[:99])
    capsys.readouterr()
    assert cli.main(arguments) == 0 and "2 held-out tasks" in capsys.readouterr().out
    assert path.read_text() == current


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("step", "missing"),
    [
        ("metarl.evaluation.evaluate.evaluate", ["evaluation.json", "mp4", "html", "films.json"]),
        ("metarl.reporting.film.film_trial", ["mp4", "html", "films.json"]),
        ("metarl.reporting.film.write_replay", ["html", "films.json"]),
    ],
)
def test_resume_makes_files_missing_after_a_signal(
    step, missing, number, tmp_path, monkeypatch, capsys
):
    def interrupt(*_args, **_named):
        os.kill(os.getpid(), number)

    run = tmp_path / "a run"
    flags = ["--iterations", "1", "--trainer.evaluate-tasks", "2", "--trainer.no-tensorboard"]
    with monkeypatch.context() as patched:
        patched.setattr(step, interrupt)
        patched.setattr(sys, "argv", [TRAIN[1]])
        assert cli.main([*TINY, *flags, "--run-dir", str(run)]) == 75
    out, err = capsys.readouterr()
    message = "metarl: stopped after training; what is missing is made by: "
    assert is_one_line(err) and err.startswith(message) and "done" not in out
    assert shlex.split(err.removeprefix(message)) == ["python", TRAIN[1], "--resume", str(run)]
    before = read_files(run)
    assert cli.main(["--resume", str(run)]) == 0
    made = read_files(run).keys() - before.keys()
    assert sorted(path.name for path in made) == sorted(
        name if "." in name else f"adaptation.{name}" for name in missing
    )
    assert all(read_files(run)[path] == raw for path, raw in before.items())


def test_checkpoint_of_an_older_version_is_accepted(run_copy, capsys):
    """Those have no settings; a resumed run may also have other free settings in config.yaml."""
    newest = checkpoint.load_newest(run_copy / "checkpoints")
    shutil.rmtree(run_copy / "checkpoints")
    place = run_copy / "checkpoints"
    checkpoint.save(place, newest.step, newest.tensors, newest.state)
    change_the_seed(run_copy)
    assert cli.main(["--resume", str(run_copy)]) == 0
    checkpoint.save(place, newest.step, newest.tensors, newest.state, settings=newest.settings)
    assert cli.main(["--resume", str(run_copy)]) == 5
    text = (run_copy / "config.yaml").read_text().replace("seed: 8", "seed: 0")
    (run_copy / "config.yaml").write_text(text.replace("threads: 1", "threads: 2"))
    assert cli.main(["--resume", str(run_copy)]) == 0


def test_resume_takes_more_iterations_and_keeps_them(run_copy, capsys):
    first = read_records(run_copy)
    more = str(ITERATIONS + 2)
    assert cli.main(["--resume", str(run_copy), "--iterations", more]) == 0
    assert (
        read_records(run_copy)[:ITERATIONS] == first
        and len(read_records(run_copy)) == ITERATIONS + 2
    )
    capsys.readouterr()
    assert cli.main(["--resume", str(run_copy)]) == 0
    assert f"is finished: {more} iterations are done" in capsys.readouterr().out


def test_resume_with_other_threads_stays_reproducible(run_copy, capsys):
    flags = ["--iterations", str(ITERATIONS + 1), "--sampler.threads", "2"]
    assert cli.main(["--resume", str(run_copy), *flags]) == 0
    assert capsys.readouterr().err == ""


def test_resume_replaces_a_damaged_newest_checkpoint(run_copy, finished_run, capsys):
    newest = run_copy / "checkpoints" / f"it_{ITERATIONS:08d}" / "tensors.safetensors"
    damage(newest)
    assert cli.main(["--resume", str(run_copy)]) == 0
    assert is_one_line(capsys.readouterr().err)
    assert [without_time(r) for r in read_records(run_copy)] == [
        without_time(r) for r in read_records(finished_run[0])
    ]
    expected = checkpoint.load_newest(finished_run[0] / "checkpoints").tensors
    for name, value in checkpoint.load_newest(run_copy / "checkpoints").tensors.items():
        assert torch.equal(value, expected[name]), name


def test_resume_refuses_a_folder_in_training(run_copy, capsys):
    before = read_files(run_copy)
    with run_folder.lock(run_copy):
        assert cli.main(["--resume", str(run_copy), "--iterations", "99"]) == 2
    err = capsys.readouterr().err
    assert is_one_line(err) and "is being trained by another process" in err
    assert read_files(run_copy) == before


# --- runs that cannot be resumed ------------------------------------------------------------------


def test_resume_of_a_folder_that_is_no_run_has_exit_code_5(tmp_path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.yaml").write_text("learning_rate: 3\n")
    for folder in ("foreign", "missing"):
        done = call(*TRAIN, "--resume", folder, cwd=tmp_path)
        assert (done.code, done.out) == (5, "") and is_one_line(done.err), done.err
        assert f"--resume {folder}" in done.err
    assert [p.name for p in tmp_path.rglob("*")] == ["foreign", "config.yaml"]


def truncate_metrics(run):
    (run / "metrics.jsonl").write_text("no record\n" * ITERATIONS)
    for path in sorted((run / "checkpoints").iterdir())[2:]:
        shutil.rmtree(path)


def change_the_version(run):
    record = json.loads((run / "run.json").read_text())
    record["env"]["version"] = 99
    (run / "run.json").write_text(json.dumps(record))


def damage_all_checkpoints(run):
    for path in run.glob("checkpoints/*/tensors.safetensors"):
        damage(path)


def change_the_network(run):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("  - 8\n", "  - 9\n"))


def change_the_seed(run):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("seed: 0\n", "seed: 8\n"))


def cut_the_config(run):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.partition("learner:")[0])


@pytest.mark.parametrize(
    ("break_run", "message"),
    [
        (damage_all_checkpoints, "no checkpoint verifies"),
        (change_the_network, "config.yaml has learner.hidden_sizes: [9], but iteration"),
        (change_the_seed, "config.yaml has seed: 8, but iteration 24 was trained with 0"),
        (cut_the_config, "config.yaml has "),
        (change_the_version, "was trained on version 99 of navigation-2d, and this is version 1"),
        (truncate_metrics, "metrics.jsonl, line 1: no record"),
        (lambda run: shutil.rmtree(run / "checkpoints"), "no folder of checkpoints"),
        (lambda run: (run / "config.yaml").write_text("env: ["), "config.yaml"),
    ],
)
def test_resume_of_a_damaged_run_keeps_its_files(break_run, message, run_copy, capsys):
    break_run(run_copy)
    before = read_files(run_copy)
    assert cli.main(["--resume", str(run_copy)]) == 5
    err = capsys.readouterr().err
    assert is_one_line(err) and message in err, err
    changed = {path.name for path, raw in read_files(run_copy).items() if before[path] != raw}
    assert changed <= {"run.json"}  # which records the attempt
