"""What plug-ins print, start and leave behind, and what they call themselves."""

import os
import signal
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import odd_envs
import plugin_envs
import pytest
from commands import METARL, QUIET, REPOSITORY, TINY, call, start
from plugin_episodes import EPISODES, TASKS, play, play_episode, process_ids

from metarl.envs.plugins.processes.output import MAX_LINES
from metarl.envs.plugins.subproc_env import SilentPlugin, SubprocEnv


def is_running(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().split()[2] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_output_of_a_plug_in_is_cut_and_goes_to_the_error_output(capfd):
    play_episode(odd_envs.Floods)
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert out == "" and len(lines) == MAX_LINES + 1 and "\x1b" not in err
    assert all(line.startswith("metarl: Floods prints: ") for line in lines)
    assert "\\x1b]0;title\\x07 step 0" in err
    assert lines[-1].endswith("... (more is not shown)")


SCRIPT = """
import numpy as np, odd_envs, os, signal
from metarl.envs.plugins.subproc_env import SubprocEnv

if __name__ == "__main__":
    env = SubprocEnv("mine", odd_envs.ClosesLate, 2)
    env.set_tasks(np.zeros((2, 1)), 1)
    {end}
"""


@pytest.mark.parametrize("end", ["env.close()", "raise KeyError", "pass"])
def test_environments_and_their_processes_end(end, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT.format(end=end))
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests" / "helpers" / "envs")])
    variables = {"PYTHONPATH": path, "STARTED": str(tmp_path / "ids")}
    done = call(sys.executable, tmp_path / "script.py", cwd=tmp_path, **variables)
    assert done.code == (end == "raise KeyError"), done.err
    ids = [int(line) for line in (tmp_path / "ids").read_text().split()]
    wait_until(lambda: not any(map(is_running, ids)))
    closed = list(tmp_path.glob("ids.*"))
    assert len(ids) == 2 * len(closed) == 4


def test_environment_that_draws_a_film_is_closed(tmp_path, monkeypatch):
    monkeypatch.setenv("STARTED", str(tmp_path / "ids"))
    with closing(SubprocEnv("mine", odd_envs.ClosesLate, 1)) as env:
        env.set_tasks(TASKS, EPISODES)
        play(env)
        before = len((tmp_path / "ids").read_text().split())
        assert len(list(env.render(env.snapshot()[:1], TASKS[0], width=40, height=30))) == 1
        ids = [int(line) for line in (tmp_path / "ids").read_text().split()]
        filmed = ids[before:]
        assert filmed and len(filmed) == 2 * len(list(tmp_path.glob("ids.*")))
        wait_until(lambda: not any(map(is_running, filmed)))


def test_interrupt_of_a_hanging_worker_is_answered_soon():
    with closing(SubprocEnv("hangs", plugin_envs.Hangs, 1, timeout=60.0)) as env:
        env.set_tasks(TASKS, EPISODES)
        env.hurry()
        began = time.monotonic()
        with pytest.raises(SilentPlugin, match="no answer for 3 s"):
            play(env)
        assert time.monotonic() - began < 20.0
        env.set_tasks(np.minimum(TASKS, 0.5), EPISODES)
        assert not env._patience.is_hurried


def test_ctrl_c_ends_a_training_whose_worker_hangs(tmp_path):
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests" / "helpers" / "envs")])
    arguments = [*TINY, *QUIET, "--env", "plugin_envs:Hangs", "--no-check", "--seed", "1"]
    arguments += ["--sampler.num-tasks", "20", "--run-dir", "run"]
    process = start(*METARL, "train", *arguments, cwd=tmp_path, PYTHONPATH=path)
    wait_until(lambda: list((tmp_path / "run" / "checkpoints").glob("it_*")), 120.0)
    time.sleep(1.0)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100.0)
    assert process.returncode == 75 and time.monotonic() - began < 60.0, err
    assert "stopped by SIGINT after iteration 0, as the next one hangs: iteration 1: " in err
    assert "resume with: metarl train --resume run --trust-env" in err


def test_dead_worker_is_counted_and_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ABORTED", str(tmp_path / "aborted"))
    with closing(SubprocEnv("mine", plugin_envs.AbortsOnce, 1)) as env:
        env.set_tasks(TASKS, EPISODES)
        assert env.restarts == 0
        play(env)
        assert env.restarts == 1
    text = "step 5: the process died (SIGKILL); a new one plays its episodes again"
    err = capsys.readouterr().err
    assert err.count("metarl: warning: mine, task ") == 1 and text in err


def test_shared_memory_has_no_name_while_it_is_used():
    with closing(SubprocEnv("mine", plugin_envs.Spot, 2)) as env:
        env.set_tasks(TASKS, EPISODES)
        name = Path("/dev/shm") / env._block.name
        first = play(env)
        assert not name.exists()
        os.kill(process_ids(env)[0], signal.SIGKILL)
        again = play(env)  # a new worker gets new memory
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        assert not list(Path("/dev/shm").glob(f"metarl-{os.getpid()}-*"))


def test_texts_of_a_plug_in_are_printable_and_short():
    with closing(SubprocEnv("mine", odd_envs.EvilTexts, 1)) as env:
        assert env.spec.reward == "A \\x1b[31mred\\x1b[0m environment."
        assert list(env.spec.floors) == ["stand\\x1bstill"]
        variable = env.spec.tasks.variables[0]
        assert (variable.name, variable.unit) == ("sp\\x07ot", "1\\x0a")
        words = env.task_words(np.zeros(1))
        assert words.startswith("\\x1b[2Jtask x") and len(words) < 600
