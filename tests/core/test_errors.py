import os
import signal
import subprocess
import sys

import pytest

from metarl.core.errors import (
    ConfigError,
    EnvironmentContractError,
    NumericalError,
    Preempted,
    ResourceError,
    RunExists,
    Terminated,
    name_failures,
    nearest,
    require,
    run_command,
)

FLAGS = [
    "--env",
    "--algo",
    "--seed",
    "--iterations",
    "--run-dir",
    "--list-envs",
    "--no-list-envs",
    "--sampler.num-tasks",
    "--sampler.threads",
    "--learner.inner-lr",
    "--learner.max-kl",
    "--learner.hidden-sizes",
    "--learner.line-search-steps",
    "--trainer.video",
    "--trainer.no-video",
]
ALGORITHMS = ["maml-trpo", "rl2", "sb3-ppo", "sb3-trpo"]
ENVIRONMENTS = [
    "ant-dir",
    "ant-vel",
    "half-cheetah-dir",
    "half-cheetah-vel",
    "ant-friction",
    "ant-dir-terrain",
    "navigation-2d",
    "ant-dir/promp",
]
KEYS = ["inner_lr", "max_kl", "num_tasks", "learner", "sampler"]


@pytest.mark.parametrize(
    ("name", "names", "expected"),
    [
        ("--evn", FLAGS, "--env"),
        ("--envz", FLAGS, "--env"),
        ("-env", FLAGS, "--env"),
        ("--Seed", FLAGS, "--seed"),
        ("--iter", FLAGS, "--iterations"),
        ("--max-iterations", FLAGS, "--iterations"),
        ("--inner-lr", FLAGS, "--learner.inner-lr"),  # the group is missing
        ("--iner-lr", FLAGS, "--learner.inner-lr"),
        ("--learner.inner-lrr", FLAGS, "--learner.inner-lr"),
        ("--learner.inner-rl", FLAGS, "--learner.inner-lr"),
        ("--learner.inner_lrr", FLAGS, "--learner.inner-lr"),
        ("--lerner.inner-lr", FLAGS, "--learner.inner-lr"),
        ("--trainer.seed", FLAGS, "--seed"),
        ("--no-vidoe", FLAGS, "--trainer.no-video"),
        ("--tasks", FLAGS, "--sampler.num-tasks"),
        ("maml", ALGORITHMS, "maml-trpo"),
        ("maml-trop", ALGORITHMS, "maml-trpo"),
        ("ppo", ALGORITHMS, "sb3-ppo"),
        ("sb3_ppo", ALGORITHMS, "sb3-ppo"),
        ("RL2", ALGORITHMS, "rl2"),
        ("rl3", ALGORITHMS, "rl2"),
        ("ant-dirr", ENVIRONMENTS, "ant-dir"),
        ("ant_dir", ENVIRONMENTS, "ant-dir"),
        ("ant-direction", ENVIRONMENTS, "ant-dir"),  # "ant-friction" has fewer typing errors
        ("half-cheeta-dir", ENVIRONMENTS, "half-cheetah-dir"),
        ("halfcheetah-vel", ENVIRONMENTS, "half-cheetah-vel"),
        ("cheetah-dir", ENVIRONMENTS, "half-cheetah-dir"),
        ("navigation2d", ENVIRONMENTS, "navigation-2d"),
        ("ant-dir/prmp", ENVIRONMENTS, "ant-dir/promp"),
        ("ant-dir-terain", ENVIRONMENTS, "ant-dir-terrain"),
        ("inner_rl", KEYS, "inner_lr"),
        ("num_task", KEYS, "num_tasks"),
        ("lcv", ["loglik", "lvc", "dice"], "lvc"),
        ("scratsh", ["adapt", "scratch"], "scratch"),
    ],
)
def test_nearest_finds_the_name_behind_a_typo(name, names, expected):
    assert nearest(name, names) == f"; did you mean {expected}?"


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("--total-timesteps", FLAGS),
        ("--timesteps", FLAGS),
        ("--steps", FLAGS),  # one of three words of --learner.line-search-steps
        ("--num-envs", FLAGS),
        ("--render", FLAGS),
        ("--gamma", FLAGS),
        ("--learner.gamma", FLAGS),  # the group alone is no similarity
        ("--learner.outer-lr", FLAGS),
        ("--trainer.inner-lr", FLAGS),
        ("--zzzzzzzz", FLAGS),
        ("--n", FLAGS),
        ("ant-dir", FLAGS),  # not a flag, though like --run-dir
        ("env", FLAGS),
        ("--ant-dir", ENVIRONMENTS),
        ("pearl", ALGORITHMS),
        ("varibad", ALGORITHMS),
        ("reptile", ALGORITHMS),
        ("maml-ppo", ["maml-trpo", "rl2"]),
        ("half-cheetah-goal", ENVIRONMENTS),
        ("CartPole-v9", ENVIRONMENTS),
        ("xyzzy", ENVIRONMENTS),
        ("", ENVIRONMENTS),
        ("-", FLAGS),
        ("ant", []),
    ],
)
def test_nearest_makes_no_guess_without_similarity(name, names):
    assert nearest(name, names) == ""


def test_nearest_prefers_the_first_of_equal_names():
    assert nearest("ant", ["ant-vel", "ant-dir"]) == "; did you mean ant-vel?"
    assert nearest("ant", iter(["ant-dir", "ant-vel"])) == "; did you mean ant-dir?"


def test_require_names_field_value_and_hint():
    require(True, "seed", 3, "at least 0")
    with pytest.raises(ConfigError, match="^seed = -1: must be at least 0$"):
        require(False, "seed", -1, "at least 0")


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (RunExists("runs/a is there"), RunExists, "iteration 3: runs/a is there"),
        (FloatingPointError("task 1"), NumericalError, "iteration 3: task 1"),
        (ValueError("no valid step"), EnvironmentContractError, "iteration 3: no valid step"),
        (MemoryError(), ResourceError, "iteration 3: no memory left; free some"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_name_failures_adds_the_place_and_an_exit_code(raised, kind, message):
    with pytest.raises(kind) as caught, name_failures("iteration 3"):
        raise raised
    assert type(caught.value) is kind and str(caught.value).startswith(message)
    assert caught.value.__cause__ is raised


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (ConfigError("seed = -1"), 2, "metarl: error: seed = -1"),
        (Preempted("saved"), 75, "metarl: saved"),
        (OSError(28, "No space left"), 6, "metarl: error: [Errno 28] No space left"),
        (MemoryError(), 6, "metarl: error: no memory left"),
        (KeyboardInterrupt(), 130, "metarl: interrupted"),
        (Terminated("saved"), 143, "metarl: interrupted; saved"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_run_command_prints_one_line_and_returns_a_code(raised, code, line, capsys):
    def fail():
        raise raised

    assert run_command(fail) == code
    assert capsys.readouterr().err == line + "\n"


def test_run_command_restores_the_handler_of_sigterm():
    before = signal.getsignal(signal.SIGTERM)
    inside = []
    assert run_command(lambda: inside.append(signal.getsignal(signal.SIGTERM))) == 0
    assert inside[0] is not before and signal.getsignal(signal.SIGTERM) is before


def test_memory_that_torch_cannot_get_has_exit_code_6(capsys):
    def allocate():
        raise RuntimeError("alloc_cpu.cpp: DefaultCPUAllocator: can't allocate memory\nframe #1")

    assert run_command(allocate) == 6
    err = capsys.readouterr().err
    assert err.startswith("metarl: error: the machine has too little memory; ")
    assert err.count("\n") == 1

    def fail():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run_command(fail)


def test_sighup_ends_a_command_like_sigterm(capsys):
    before = signal.getsignal(signal.SIGHUP)
    assert run_command(lambda: os.kill(os.getpid(), signal.SIGHUP)) == 129
    assert capsys.readouterr().err == "metarl: interrupted\n"
    assert signal.getsignal(signal.SIGHUP) is before


CLOSED = """
import os, sys
from metarl.core.errors import ConfigError, run_command

def command():
    with open({path!r}, "w") as file:
        print("to the user")
        print("metarl: a message", file=sys.stderr)
        os.write(1, b"raw") and os.write(2, b"raw") and os.read(0, 1)
        file.write(str(file.fileno()))
    raise ConfigError("wrong")

sys.exit(run_command(command))
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_never_those_of_a_file(closed, tmp_path):
    path = tmp_path / "metrics.jsonl"
    (tmp_path / "command.py").write_text(CLOSED.format(path=str(path)))
    shell = f"{sys.executable} {tmp_path / 'command.py'} {closed}"
    done = subprocess.run(shell, shell=True, capture_output=True, text=True, input="x")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert path.read_text().isdigit() and int(path.read_text()) > 2
