import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import plugin_envs
import pytest
from plugin_episodes import (
    EPISODES,
    ROWS,
    STEPS,
    TASKS,
    message,
    play,
    play_episode,
    play_in_a_loop,
    process_ids,
    same,
    streams,
)

from metarl.core.errors import ResourceError
from metarl.envs.plugins.processes.block import Block
from metarl.envs.plugins.subproc_env import SubprocEnv

REPOSITORY = Path(__file__).resolve().parents[3]


def test_killed_worker_is_replaced_without_a_trace(spots):
    spots.set_tasks(TASKS, EPISODES)
    ids = process_ids(spots)

    def kill(t):
        if t == 5:
            os.kill(ids[1], signal.SIGKILL)

    assert same(play(spots, kill), play_in_a_loop())
    after = process_ids(spots)
    assert after[0] == ids[0] and after[1] != ids[1]


VERBS = {
    "reset": lambda env: None,
    "set_tasks": lambda env: env.set_tasks(TASKS, EPISODES),
    "sample": lambda env: env.spec.tasks.sample(np.random.default_rng(1), 3).tolist(),
    "task_words": lambda env: env.task_words(TASKS[0]),
}


@pytest.mark.parametrize("workers", [[0], [1], [0, 1]])
@pytest.mark.parametrize("verb", VERBS)
def test_worker_killed_between_rollouts_is_replaced(spots, verb, workers):
    spots.set_tasks(TASKS, EPISODES)
    before = VERBS[verb](spots)
    first = play(spots)
    ids = process_ids(spots)
    for worker in workers:
        os.kill(ids[worker], signal.SIGKILL)
    assert VERBS[verb](spots) == before
    assert same(play(spots), first)
    after = process_ids(spots)
    assert [after[i] != ids[i] for i in (0, 1)] == [i in workers for i in (0, 1)]


@pytest.mark.parametrize("at", [0, 5])
@pytest.mark.parametrize("verb", ["sample", "task_words"])
def test_message_to_a_killed_worker_leaves_the_rollout_unchanged(spots, verb, at):
    spots.set_tasks(TASKS, EPISODES)
    ids, before = process_ids(spots), VERBS[verb](spots)

    def kill_and_ask(t):
        if t == at:
            os.kill(ids[0], signal.SIGKILL)
            assert VERBS[verb](spots) == before

    assert same(play(spots, kill_and_ask), play_in_a_loop())
    assert process_ids(spots)[0] != ids[0]


def test_message_after_an_unrepeatable_episode_is_answered():
    with closing(SubprocEnv("random", plugin_envs.NotRepeatable, 1)) as env:
        env.set_tasks(TASKS, EPISODES)
        play(env)
        os.kill(process_ids(env)[0], signal.SIGKILL)
        assert env.task_words(TASKS[0]) == "spot -0.90"
        play(env)


WAIT = "; --trainer.env-timeout waits longer"


def test_worker_that_hangs_in_reset_is_replaced():
    with closing(SubprocEnv("hangs", plugin_envs.HangsInReset, 1, timeout=2.0)) as env:
        env.set_tasks(TASKS, EPISODES)
        text = message(lambda: env.reset(streams()))
        assert text == f"hangs, task 2 (spot 0.70), episode 0, reset: no answer for 2 s{WAIT}"
        assert env.task_words(TASKS[0]) == "spot -0.90"
        with pytest.raises(RuntimeError, match="call reset before step"):
            env.step(np.zeros((ROWS, 1)), np.ones(ROWS, dtype=bool))


def test_message_that_kills_every_worker_names_the_signal():
    with closing(SubprocEnv("mine", plugin_envs.AbortsInSample, 1)) as env:
        text = message(lambda: env.spec.tasks.sample(np.random.default_rng(0), 3))
        assert text == "mine: sample: its process died 3 times (SIGKILL)"
        env.set_tasks(TASKS, EPISODES)
        assert same(play(env), play_in_a_loop())


def test_worker_that_dies_at_its_start_is_reported():
    with closing(SubprocEnv("mine", plugin_envs.Spot, 2)) as env:
        env.make = plugin_envs.DiesAtTheStart()
        text = message(lambda: env.set_tasks(TASKS, EPISODES))
        assert text == "mine: its process died at the start (SIGKILL)"


def test_worker_that_dies_in_a_step_is_replaced_and_replayed(tmp_path, monkeypatch):
    monkeypatch.setenv("ABORTED", str(tmp_path / "aborted"))
    assert same(play_episode(plugin_envs.AbortsOnce), play_in_a_loop())
    assert (tmp_path / "aborted").exists()


def test_shard_that_cannot_be_replayed_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("ABORTED", str(tmp_path / "aborted"))
    text = message(lambda: play_episode(plugin_envs.RandomAbortsOnce))
    assert "the replay gave other observations" in text and "step 5" in text


def test_step_that_kills_every_worker_names_the_signal():
    text = message(lambda: play_episode(plugin_envs.Aborts))
    assert text == (
        "Aborts, task 2 (spot 0.70), episode 0, step 2: its process died 3 times (SIGKILL)"
    )


def test_step_that_hangs_is_reported_and_env_stays_usable():
    with closing(SubprocEnv("hangs", plugin_envs.Hangs, 2, timeout=2.0)) as env:
        env.set_tasks(TASKS, EPISODES)
        started = time.monotonic()
        text = message(lambda: play(env))
        assert time.monotonic() - started < 30.0
        assert text == f"hangs, task 2 (spot 0.70), episode 0, step 2: no answer for 2 s{WAIT}"
        env.set_tasks(np.minimum(TASKS, 0.5), EPISODES)
        assert play(env)[0].shape == (STEPS + 1, ROWS, 2)


@pytest.mark.parametrize("kind", ["Spot", "TakesInterrupts"])
def test_workers_ignore_ctrl_c(kind):
    with closing(SubprocEnv(kind, getattr(plugin_envs, kind), 2)) as env:
        env.set_tasks(TASKS, EPISODES)
        ids = process_ids(env)
        for number in ids:
            os.kill(number, signal.SIGINT)
        assert same(play(env), play_in_a_loop()) and process_ids(env) == ids


def test_interrupt_raised_by_a_plugin_is_an_ordinary_error(capfd):
    text = message(lambda: play_episode(plugin_envs.RaisesInterrupt))
    where = "RaisesInterrupt, task 2 (spot 0.70), episode 0, step 2: "
    assert text.startswith(where + "step raised KeyboardInterrupt: by a key (")
    text = message(lambda: SubprocEnv("mine", plugin_envs.InterruptInSample, 1))
    assert text.startswith("mine: KeyboardInterrupt: by a key (")
    assert capfd.readouterr() == ("", "")


def running(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().split()[2] not in "ZX"
    except FileNotFoundError:
        return False


def gone(numbers):
    deadline = time.monotonic() + 10.0
    while any(map(running, numbers)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return True


def test_close_ends_workers_and_frees_shared_memory():
    env = SubprocEnv("spots", plugin_envs.Spot, 2)
    env.set_tasks(TASKS, EPISODES)
    memory, ids = Path("/dev/shm") / env._block.name, process_ids(env)
    assert not memory.exists() and all(map(running, ids))  # nobody can take it away
    env.close()
    assert gone(ids) and not memory.exists()
    env.set_tasks(TASKS, EPISODES)
    assert same(play(env), play_in_a_loop())
    env.close()


def test_workers_end_with_a_killed_trainer():
    code = (
        "import plugin_envs, numpy as np\n"
        "from metarl.envs.plugins.subproc_env import SubprocEnv\n"
        "env = SubprocEnv('hangs', plugin_envs.Hangs, 2)\n"
        "env.set_tasks(np.array([[0.7], [0.0]]), 1)\n"
        "env.reset([np.random.default_rng(0)] * 2)\n"
        "print(*[w._process.pid for w in env._resources.workers], flush=True)\n"
        "for _ in range(3): env.step(np.zeros((2, 1)), np.ones(2, dtype=bool))\n"
    )
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests" / "helpers" / "envs")])
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # Python warns that it removes leaked memory
        text=True,
    ) as process:
        ids = [int(word) for word in process.stdout.readline().split()]
        assert len(ids) == 2 and all(map(running, ids))
        time.sleep(0.5)  # the first worker hangs, the second waits for a message
        process.kill()
    assert gone(ids)


def test_shared_memory_that_is_too_small_is_named_at_once(monkeypatch):
    def refuse(handle, start, size):
        raise OSError(28, "No space left on device")

    before = set(os.listdir("/dev/shm"))
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(ResourceError, match="/dev/shm has no room for 100 bytes.*--shm-size"):
        Block(2, 3, 2)
    assert set(os.listdir("/dev/shm")) <= before


HANGING = """
import os, pathlib, re

def make(**options):
    pathlib.Path({path!r}).write_text(str(os.getpid()))
    re.match("(a+)+b", "a" * 60)  # takes years, and holds Python's lock

if __name__ == "__main__":
    from metarl.envs.plugins.processes.output import Output
    from metarl.envs.plugins.worker_pool import Patience, Worker
    Worker(make, None, Patience(60.0), Output("hanging"))
"""


def test_worker_that_holds_the_lock_ends_with_its_parent(tmp_path):
    path = tmp_path / "pid"
    (tmp_path / "hanging.py").write_text(HANGING.format(path=str(path)))
    parent = subprocess.Popen([sys.executable, tmp_path / "hanging.py"])
    deadline = time.monotonic() + 60.0
    while not (path.exists() and path.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    worker = int(path.read_text())
    parent.kill()
    parent.wait()
    try:
        while time.monotonic() < deadline and is_running(worker):
            time.sleep(0.05)
        assert not is_running(worker)
    finally:
        if is_running(worker):
            os.kill(worker, signal.SIGKILL)


def is_running(process):
    """Returns whether a process runs; one that has ended and is not waited for does not."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"
