"""A run that was stopped, killed or damaged, and the command that goes on with it."""

import json
import os
import re
import shlex
import shutil
import signal
import sys

import pytest
import torch
from commands import ITERATIONS, QUIET, TINY, TRAIN, call, content, damage, one_line, records

from metarl.cli import train as cli
from metarl.runs import checkpoint
from metarl.runs import folder as run_folder
from metarl.runs import logger as log
from metarl.runs.logger import without_time

# ------------------------------------------------------------------------------------ kill and resume


def test_a_run_killed_and_resumed_three_times_equals_the_uninterrupted_one_bit_for_bit(
    whole, battered
):
    run, outcomes = battered
    assert [done.code for done in outcomes] == [-signal.SIGKILL, 75, 75, 0]
    expected, found = records(whole[0]), records(run)
    assert [without_time(r) for r in found] == [without_time(r) for r in expected]
    one, other = (checkpoint.load_newest(path / "checkpoints") for path in (whole[0], run))
    assert one.step == other.step == ITERATIONS and one.tensors.keys() == other.tensors.keys()
    for name, value in one.tensors.items():
        assert torch.equal(value, other.tensors[name]), name
    assert one.state["env_steps"] == other.state["env_steps"]
    seconds = [r["seconds"] for r in found]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize(("index", "name"), [(1, "SIGTERM"), (2, "SIGINT")])
def test_a_signal_saves_and_prints_the_command_that_goes_on(battered, index, name):
    run, outcomes = battered
    noticed, last = outcomes[index].err.strip().splitlines()
    assert noticed.startswith(f"metarl: {name}: stopping after this iteration")
    stopped, _, command = last.partition("; go on with: ")
    assert re.fullmatch(rf"metarl: stopped by {name} after iteration \d+", stopped)
    assert shlex.split(command) == ["python", TRAIN[1], "--resume", str(run)]
    assert "done" not in outcomes[index].out and not (run / "evaluation.json").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_at_once_in_its_first_iteration_says_how_to_go_on(
    number, code, tmp_path, monkeypatch, whole, capfd
):
    def killed(*_):
        for _ in range(2):
            os.kill(os.getpid(), number)

    run, before = tmp_path / "run", signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        patched.setattr("metarl.envs.navigation.NavigationEnv.set_tasks", killed)
        words = [*TINY, *QUIET, "--iterations", "2", "--run-dir", str(run)]
        patched.setattr(sys, "argv", [TRAIN[1]])
        assert cli.main(words) == code
    said, _, command = capfd.readouterr().err.splitlines()[-1].partition("; go on with: ")
    assert said == "metarl: interrupted; the last checkpoint stands"
    assert shlex.split(command) == ["python", TRAIN[1], "--resume", str(run)]
    assert signal.getsignal(signal.SIGTERM) is before
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["it_00000000"]
    assert cli.main(["--resume", str(run)]) == 0
    expected = [without_time(record) for record in records(whole[0])[:2]]
    assert [without_time(record) for record in records(run)] == expected


def test_a_full_disk_names_file_and_cure_and_the_run_goes_on_once_there_is_room(
    tmp_path, monkeypatch, capsys
):
    append, count = log._append, []

    def full(file, line):
        count.append(1)
        if len(count) == 2:
            raise OSError(28, "No space left on device")
        append(file, line)

    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(log, "_append", full)
        patched.setattr(sys, "argv", [TRAIN[1]])
        words = [*TINY, *QUIET, "--iterations", "3", "--run-dir", str(run)]
        assert cli.main(words) == 6
    err = capsys.readouterr().err
    assert err.startswith(
        f"metarl: error: {run / 'metrics.jsonl'}: No space left on device; make room"
    )
    assert one_line(err) and err.endswith(f"resume with: python {TRAIN[1]} --resume {run}\n")
    assert cli.main(["--resume", str(run)]) == 0 and len(records(run)) == 2


def test_a_run_that_is_stopped_before_its_first_checkpoint_promises_nothing(
    tmp_path, monkeypatch, capsys
):
    def stopped(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("metarl.experiment.record_start", stopped)
    assert cli.main([*TINY, *QUIET, "--run-dir", str(tmp_path / "run")]) == 143
    assert capsys.readouterr().err == "metarl: interrupted\n"


def test_every_resume_is_recorded_and_voids_nothing(battered):
    run, outcomes = battered
    assert len(json.loads((run / "run.json").read_text())["resumed"]) == 3
    assert "no longer repeats" not in "".join(done.err for done in outcomes)
    assert outcomes[3].err == "" and "from iteration" in outcomes[3].out


def test_resume_of_a_finished_run_says_so_and_changes_nothing(copy, capsys):
    before = content(copy)
    assert cli.main(["--resume", str(copy)]) == 0
    out, err = capsys.readouterr()
    assert f"{copy} is finished: {ITERATIONS} iterations are done; raise --iterations" in out
    assert out.count("\n") == 1 and err == "" and content(copy) == before


def test_what_a_kill_at_the_very_end_left_undone_is_made_up_for_once(copy, capsys):
    words = ["--resume", str(copy), "--trainer.evaluate-tasks", "2"]
    assert cli.main(words) == 0 and "2 held-out tasks" in capsys.readouterr().out
    before = content(copy)
    assert cli.main(words) == 0 and "held-out" not in capsys.readouterr().out
    assert content(copy) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("step", "left"),
    [
        ("metarl.evaluation.evaluate.evaluate", ["evaluation.json", "mp4", "html"]),
        ("metarl.reporting.film.film_trial", ["mp4", "html"]),
        ("metarl.reporting.film.write_replay", ["html"]),
    ],
)
def test_a_signal_after_training_is_exit_code_75_and_a_resume_makes_what_is_missing(
    step, left, number, tmp_path, monkeypatch, capsys
):
    def interrupted(*_args, **_named):
        os.kill(os.getpid(), number)

    run = tmp_path / "a run"
    words = ["--iterations", "1", "--trainer.evaluate-tasks", "2", "--trainer.no-tensorboard"]
    with monkeypatch.context() as patched:
        patched.setattr(step, interrupted)
        patched.setattr(sys, "argv", [TRAIN[1]])
        assert cli.main([*TINY, *words, "--run-dir", str(run)]) == 75
    out, err = capsys.readouterr()
    said = "metarl: stopped after training; what is missing is made by: "
    assert one_line(err) and err.startswith(said) and "done" not in out
    assert shlex.split(err.removeprefix(said)) == ["python", TRAIN[1], "--resume", str(run)]
    before = content(run)
    assert cli.main(["--resume", str(run)]) == 0
    made = content(run).keys() - before.keys()
    assert sorted(path.name for path in made) == sorted(
        name if "." in name else f"adaptation.{name}" for name in left
    )
    assert all(content(run)[path] == raw for path, raw in before.items())


def test_more_iterations_train_on_and_are_kept_for_the_next_resume(copy, capsys):
    first = records(copy)
    more = str(ITERATIONS + 2)
    assert cli.main(["--resume", str(copy), "--iterations", more]) == 0
    assert records(copy)[:ITERATIONS] == first and len(records(copy)) == ITERATIONS + 2
    capsys.readouterr()
    assert cli.main(["--resume", str(copy)]) == 0
    assert f"all {more} iterations are done" in capsys.readouterr().out


def test_another_number_of_threads_voids_nothing(copy, capsys):
    words = ["--iterations", str(ITERATIONS + 1), "--sampler.threads", "2"]
    assert cli.main(["--resume", str(copy), *words]) == 0
    assert capsys.readouterr().err == ""


def test_a_damaged_newest_checkpoint_is_passed_over_and_made_again(copy, whole, capsys):
    newest = copy / "checkpoints" / f"it_{ITERATIONS:08d}" / "tensors.safetensors"
    damage(newest)
    assert cli.main(["--resume", str(copy)]) == 0
    assert one_line(capsys.readouterr().err)
    assert [without_time(r) for r in records(copy)] == [without_time(r) for r in records(whole[0])]
    expected = checkpoint.load_newest(whole[0] / "checkpoints").tensors
    for name, value in checkpoint.load_newest(copy / "checkpoints").tensors.items():
        assert torch.equal(value, expected[name]), name


def test_two_processes_never_train_in_one_folder(copy, capsys):
    before = content(copy)
    with run_folder.lock(copy):
        assert cli.main(["--resume", str(copy), "--iterations", "99"]) == 2
    err = capsys.readouterr().err
    assert one_line(err) and "is being trained by another process" in err
    assert content(copy) == before


# ------------------------------------------------------------------------------------ what cannot be resumed


def test_resume_of_a_folder_that_is_no_run_is_one_line_with_exit_code_5(tmp_path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.yaml").write_text("learning_rate: 3\n")
    for folder in ("foreign", "missing"):
        done = call(*TRAIN, "--resume", folder, cwd=tmp_path)
        assert (done.code, done.out) == (5, "") and one_line(done.err), done.err
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


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (damage_all_checkpoints, "no checkpoint verifies"),
        (change_the_network, "does not fit"),
        (change_the_version, "was trained on version 99 of navigation-2d, and this is version 1"),
        (truncate_metrics, "metrics.jsonl, line 1: no record"),
        (lambda run: shutil.rmtree(run / "checkpoints"), "no folder of checkpoints"),
        (lambda run: (run / "config.yaml").write_text("env: ["), "config.yaml"),
    ],
)
def test_resume_of_a_damaged_run_is_one_line_with_exit_code_5_and_keeps_what_is_there(
    break_it, words, copy, capsys
):
    break_it(copy)
    before = content(copy)
    assert cli.main(["--resume", str(copy)]) == 5
    err = capsys.readouterr().err
    assert one_line(err) and words in err, err
    changed = {path.name for path, raw in content(copy).items() if before[path] != raw}
    assert changed <= {"run.json"}  # where the attempt is recorded
