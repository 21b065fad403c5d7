"""The processes of a suite, with short shell commands in the place of trainings."""

import io
import json
import os
import signal
import subprocess
import threading
import time

import pytest

from metarl.core.errors import ConfigError, Preempted
from metarl.runs import folder
from metarl.suites import runner
from metarl.suites.processes import ThisMachine
from metarl.suites.runner import estimate_time_left, run_suite
from metarl.suites.stages import prepare
from metarl.suites.suite import read_suite


class Shell(subprocess.Popen):
    loss = refusal = ""

    def is_waiting(self):
        return False


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        "{seeds: [0, 1, 2, 3], settings: {iterations: 10, trainer: {video: false, "
        "evaluate_tasks: 0}}, runs: [{env: navigation-2d}, {env: ant-dir, seeds: [7]}]}"
    )
    return read_suite(path, tmp_path / "runs")


@pytest.fixture
def shell(monkeypatch, tmp_path):
    """Makes every run the shell script that is set for its name; its file `done` is its result."""
    scripts = {}

    def next_command(run):
        if (run.folder / "done").exists():
            return None
        script = scripts.get(run.name, scripts[""])
        return [f"cd {run.folder} && {{ {script}; }}"]

    def spawn(machine, command, log):
        with open(log, "ab") as output:
            streams = {"stdout": output, "stderr": subprocess.STDOUT}
            return Shell(["sh", "-c", *command], process_group=0, **streams)

    monkeypatch.setattr(runner, "next_command", next_command)
    monkeypatch.setattr(
        runner, "prepare", lambda run: run.folder.mkdir(parents=True, exist_ok=True)
    )
    monkeypatch.setattr(ThisMachine, "spawn", spawn)
    return scripts


COUNTED = (
    "mkdir ../busy-$$; ls -d ../busy-* | wc -l > peak; sleep 0.4; rmdir ../busy-$$; touch done"
)


@pytest.mark.parametrize("jobs", [1, 3])
def test_so_many_processes_run_at_a_time(suite, shell, jobs):
    shell[""] = COUNTED
    assert run_suite(suite, jobs, "again", stream=io.StringIO()) == []
    peaks = [int((run.folder / "peak").read_text()) for run in suite.runs[:4]]
    assert max(peaks) == jobs


def test_failed_run_does_not_stop_the_others(suite, shell):
    shell[""] = "touch done"
    shell["navigation-2d_maml-trpo/seed-1"] = "echo x; echo 'metarl: error: bad'; exit 4"
    shell["navigation-2d_maml-trpo/seed-2"] = "kill -9 $$"
    shell["ant-dir_maml-trpo/seed-7"] = "true"  # ends well, and has done nothing
    out = io.StringIO()
    failures = run_suite(suite, 2, "again", stream=out)
    found = {failure.run.config.seed: (failure.reason, failure.exit_code) for failure in failures}
    assert found[1] == ("metarl: error: bad", 4) and found[2] == ("killed by SIGKILL", 6)
    assert "did not do its work" in found[7][0] and found[7][1] == 5
    assert len(failures) == 3
    done = [(run.folder / "done").exists() for run in suite.runs]
    assert done == [True, False, False, True, False]
    assert "failed navigation-2d_maml-trpo/seed-1 (exit 4): metarl: error: bad\n" in out.getvalue()


def test_finished_runs_are_skipped(suite, shell):
    shell[""] = "exit 1"
    for run in suite.runs:
        run.folder.mkdir(parents=True)
        (run.folder / "done").touch()
    out = io.StringIO()
    assert run_suite(suite, 2, "again", stream=out) == []
    assert out.getvalue().count("already done") == len(suite.runs)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_is_passed_on_once_and_ends_with_the_hint(suite, shell, number, capfd):
    # a process that counts its signals and ends a moment later, as a training does
    shell[""] = (
        "trap 'echo s >> signals' INT TERM; touch ready; "
        "while [ ! -e signals ]; do sleep 0.05; done; sleep 0.4; exit 75"
    )
    first = suite.runs[0].folder / "ready"

    def send():
        while not first.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    with pytest.raises(Preempted, match=r"0 of 5 runs are done.*go on with: metarl suite x"):
        run_suite(suite, 2, "metarl suite x", stream=io.StringIO())
    thread.join()
    started = [run for run in suite.runs if run.folder.exists()]
    assert len(started) == 2
    assert [(run.folder / "signals").read_text() for run in started] == ["s\n", "s\n"]
    assert signal.Signals(number).name in capfd.readouterr().err


def test_two_commands_on_one_folder_are_refused(suite, shell):
    suite.root.mkdir()
    with folder.lock(suite.root), pytest.raises(ConfigError, match="another process"):
        run_suite(suite, 1, "again", stream=io.StringIO())


def test_closed_output_stops_the_processes(suite, shell):
    class Closed(io.StringIO):
        def write(self, text):
            if "started" in text and "seed-1" in text:
                raise BrokenPipeError
            return super().write(text)

    shell[""] = "trap 'touch stopped; exit 75' TERM; touch ready; while true; do sleep 0.05; done"
    with pytest.raises(BrokenPipeError):
        run_suite(suite, 2, "again", stream=Closed())
    assert not (suite.runs[0].folder / "done").exists()


def write_progress(run, iteration, seconds):
    run.folder.mkdir(parents=True)
    record = {"iteration": iteration, "seconds": seconds}
    (run.folder / "metrics.jsonl").write_text(json.dumps(record) + "\n" + '{"half')


def test_time_left_follows_the_pace_of_the_entry(suite):
    first, *others, ant = suite.runs
    write_progress(first, 4, 20.0)  # 5 s an iteration: 30 s left, and 50 s for each other seed
    # two at a time: the first until 30, one until 50; then 80 and 100
    left = estimate_time_left(suite.runs, [first, others[0]], others[1:], jobs=2)
    assert left == pytest.approx(100.0)
    # the ant is not known: as long as the mean of those that are, 50 s, after 80
    left = estimate_time_left(suite.runs, [first, others[0]], [*others[1:], ant], jobs=2)
    assert left == pytest.approx(130.0)


def test_time_left_is_unknown_at_first(suite):
    assert estimate_time_left(suite.runs, suite.runs[:1], suite.runs[1:], 2) == float("inf")


class Losing(ThisMachine):
    """Loses the processes of a run so many times."""

    def __init__(self, times):
        self.left = times

    def spawn(self, command, log):
        process = super().spawn(command, log)
        if "seed-1" in command[0] and self.left:
            self.left -= 1
            process.loss = "its node died"
            process.kill()
        return process


def test_run_is_started_again_where_its_machine_was_lost(suite, shell):
    shell[""] = "sleep 0.3; echo x >> starts; touch done"
    out = io.StringIO()
    assert run_suite(suite, 2, "again", machines=Losing(2), stream=out) == []
    assert all((run.folder / "done").exists() for run in suite.runs)
    text = "lost navigation-2d_maml-trpo/seed-1 with its machine (its node died)"
    assert out.getvalue().count(text) == 2


def test_run_whose_machines_are_always_lost_fails(suite, shell):
    shell[""] = "sleep 0.3; touch done"
    failures = run_suite(suite, 2, "again", machines=Losing(100), stream=io.StringIO())
    assert [failure.run.config.seed for failure in failures] == [1]
    assert failures[0].exit_code == 6 and "lost 6 times (its node died)" in failures[0].reason


def test_run_is_started_elsewhere_where_a_machine_cannot_run_it(suite, shell):
    class Refusing(Losing):
        def spawn(self, command, log):
            process = super().spawn(command, log)
            process.refusal, process.loss = process.loss and "node 3 has torch 2.8", ""
            return process

    shell[""] = "sleep 0.3; touch done"
    out = io.StringIO()
    assert run_suite(suite, 2, "again", machines=Refusing(9), stream=out) == []
    assert all((run.folder / "done").exists() for run in suite.runs)
    text = "warning: node 3 has torch 2.8; its processor is not used"
    assert out.getvalue().count(text) == 9


def test_run_waits_for_a_training_that_still_saves(suite, shell):
    """As after a suite that was killed: its trainings finish their iteration first."""
    shell[""] = "touch done"
    busy, out = suite.runs[1], io.StringIO()
    busy.folder.mkdir(parents=True)
    held, free = threading.Event(), threading.Event()

    def hold():
        with folder.lock(busy.folder):
            held.set()
            free.wait(60)
            assert not (busy.folder / "done").exists()

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(60)
    runner_thread = threading.Timer(1.0, free.set)
    runner_thread.start()
    assert run_suite(suite, 2, "again", stream=out) == []
    holder.join()
    assert (busy.folder / "done").exists()
    assert out.getvalue().count("waiting for the process that still works in") == 1


def test_folder_that_stays_locked_is_a_failure(suite, shell, monkeypatch):
    monkeypatch.setattr(runner, "_LOCK_LIMIT", 0.3)
    make = runner.prepare
    monkeypatch.setattr(runner, "prepare", lambda run: (prepare(run), make(run)))
    shell[""] = "touch done"
    busy = suite.runs[1]
    busy.folder.mkdir(parents=True)
    with folder.lock(busy.folder):
        failures = run_suite(suite, 1, "again", stream=io.StringIO())
    assert [failure.run for failure in failures] == [busy]
    assert "is being trained by another process" in failures[0].reason
