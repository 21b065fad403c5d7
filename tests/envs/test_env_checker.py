"""check-env names every violation of the contract, and nothing else."""

import functools
import json

import action_envs
import numpy as np
import plugin_envs
import pytest

from metarl.cli import commands
from metarl.envs.env_checker import Finding, check, report
from metarl.envs.navigation import DenseGoal, NavigationEnv
from metarl.envs.plugins.subproc_env import SubprocEnv
from metarl.envs.registry import make
from metarl.runs import progress

ALL = [
    "sizes",
    "tasks",
    "episode",
    "horizon",
    "replay",
    "threads",
    "nothing left behind",
    "set_task survives reset",
    "rows are independent",
    "tasks differ",
    "pickling",
]


def violations(make_env):
    findings = check(make_env)
    assert [f.name for f in findings if f.name not in ("robot", "mirror")] == ALL
    assert all("\n" not in f.violation for f in findings)
    return {f.name: f.violation for f in findings if f.violation}


def foreign(kind):
    return lambda threads: SubprocEnv("mine", getattr(plugin_envs, kind), threads)


@pytest.mark.parametrize("name", ["navigation-2d", "navigation-2d-sparse", "half-cheetah-dir"])
def test_check_passes_built_in_environments(name):
    assert violations(lambda threads: make(name, threads)) == {}


@pytest.mark.parametrize("kind", ["Spot", "Falls", "CutShort", "TwoWays", "Mazes", "Levers"])
def test_check_passes_correct_plug_ins(kind):
    assert violations(foreign(kind)) == {}


def test_check_prints_the_mapping_of_actions():
    lines = report(
        check(lambda threads: SubprocEnv("mine", action_envs.Newtons, threads))
    ).splitlines()
    assert lines[0].split(maxsplit=1)[1] == (
        "ok (action = (0, 0, 0.25) + (200, 1, 0.25) x output of the policy, "
        "clipped to [(-200, -1, 0), (200, 1, 0.5)])"
    )
    scaled = report(check(foreign("TwoWays")))
    assert "(action = 0.25 x output of the policy, clipped to [-1, 1])" in scaled
    assert "(action: one of 3, the largest of the policy's outputs)" in report(
        check(foreign("Levers"))
    )


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("Raises", "episode", "episode 0, step 2: step raised ZeroDivisionError: no friction ("),
        ("Aborts", "episode", "step 2: its process died 3 times (SIGKILL)"),
        ("NanReward", "episode", "step 2: the reward is nan"),
        ("NanObs", "episode", "step 2: obs[1] is inf"),
        ("WrongShape", "episode", "step 2: the observation has the shape (3,)"),
        ("OutOfBounds", "episode", "obs[1] is 4, outside of observation_space [-3, 3]"),
        ("EndsEarly", "horizon", "every episode ended after 5 of 8 steps"),
        ("NotRepeatable", "replay", "gave other results in a new environment (task 0, episode 0,"),
        ("Remembers", "nothing left behind", "results after other episodes differ"),
        ("SharesState", "threads", "results with one thread or worker differ from those with"),
        ("ForgetsTaskLater", "set_task survives reset", "the task lasts one episode only"),
        ("IgnoresTask", "tasks differ", "8 tasks gave the same observations and rewards"),
        ("ForgetsTask", "tasks differ", "the task is lost at reset"),
        ("OneTask", "tasks", "all tasks are the same: [0.5]"),
        ("TasksOfTheirOwn", "tasks", "tasks.sample must depend on its stream only"),
        ("MazesOfTheirOwn", "tasks", "tasks.sample must depend on its stream only"),
        ("TasksOutOfBounds", "tasks", "task number 'spot' leaves [0, 1] 1"),
    ],
)
def test_check_names_the_violation_of_a_plug_in(kind, name, words):
    named = violations(foreign(kind))
    assert words in named.pop(name)
    assert not named or (kind, list(named)) == ("SharesState", ["nothing left behind"])


class Navigation(NavigationEnv):
    """A user's BatchEnv; subclasses violate the contract."""

    def __init__(self, threads):
        super().__init__("mine", DenseGoal())
        self.threads = threads


class WrongRewards(Navigation):
    def step(self, action, alive):
        step = super().step(action, alive)
        return type(step)(step.obs, step.reward[:, None], step.terminated, step.fault)


class NumbersForBooleans(Navigation):
    def step(self, action, alive):
        step = super().step(action, alive)
        return type(step)(step.obs, step.reward, step.terminated * 1.0, step.fault)


class SilentNan(Navigation):
    def step(self, action, alive):
        step = super().step(action, alive)
        return type(step)(
            np.where(step.obs > 0.3, np.nan, step.obs), *list(vars(step).values())[1:]
        )


class DependsOnRows(Navigation):
    def reset(self, rngs):
        super().reset(rngs)
        self._position = self._position + 0.01 * len(rngs)
        return self._position


class DependsOnThreads(Navigation):
    def step(self, action, alive):
        return super().step(action * self.threads, alive)


class FailsAtReset(Navigation):
    def reset(self, rngs):
        raise OSError("no robot\nis connected")


class NoSizes(Navigation):
    def __init__(self, threads):
        super().__init__(threads)
        object.__setattr__(self.spec, "horizon", 0)


class Unpicklable(Navigation):
    def __init__(self, threads):
        super().__init__(threads)
        object.__setattr__(self.spec, "reward", lambda: None)


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        (WrongRewards, "episode", "step 0: reward has the shape (8, 1), not (8,)"),
        (
            NumbersForBooleans,
            "episode",
            "step 0: terminated is of type float64; it must hold booleans",
        ),
        (SilentNan, "episode", "is not finite, but fault is False"),
        (
            DependsOnRows,
            "rows are independent",
            "results of task 3 alone differ from those among others",
        ),
        (
            DependsOnThreads,
            "threads",
            "results with one thread or worker differ from those with two",
        ),
        (FailsAtReset, "episode", "OSError: no robot is connected"),
        (NoSizes, "sizes", "spec.horizon is 0; it must be a whole number >= 1"),
        (Unpicklable, "pickling", "its EnvSpec cannot be sent to another process"),
    ],
)
def test_check_names_the_violation_of_a_batch_env(kind, name, words):
    named = violations(kind)
    assert words in named.pop(name) and not named


def test_check_skips_what_depends_on_a_failed_check():
    findings = check(FailsAtReset)
    unchecked = [f.name for f in findings if not f.checked]
    assert unchecked == ALL[3:10] and not any(f.violation for f in findings[3:])
    text = report([Finding("a"), Finding("b", "bad"), Finding("c", checked=False)])
    assert [line.split(maxsplit=1)[1] for line in text.splitlines()] == [
        "ok",
        "VIOLATION: bad",
        "not checked",
    ]


@pytest.mark.parametrize(
    ("name", "code", "name_of_check"),
    [
        ("navigation-2d", 0, None),
        ("plugin_envs:IgnoresTask", 3, "tasks differ"),
        ("plugin_envs:Images", 3, "start"),
    ],
)
def test_command_prints_and_writes_every_check(name, code, name_of_check, tmp_path, capsys):
    path = tmp_path / "out.json"
    assert commands.main(["check-env", name, "--json", str(path)]) == code
    out, err = capsys.readouterr()
    result = json.loads(path.read_text())
    assert result["env"] == name and result["violations"] == (code == 3)
    bad = [c["name"] for c in result["checks"] if c["violation"]]
    assert bad == [name_of_check] * (code == 3)
    shown = [line for line in out.splitlines() if not line.startswith("checking ")]  # heartbeat
    assert len(shown) == len(result["checks"]) and out.count("VIOLATION: ") == len(bad)
    lines = [
        f"metarl: error: {name} breaks the contract: 1 of {len(result['checks'])} checks failed"
    ]
    assert err.splitlines() == lines * (code == 3)


def test_command_shows_that_it_still_runs(monkeypatch, capsys):
    beats = functools.partial(progress.heartbeat, every=0.01)
    monkeypatch.setattr(commands, "heartbeat", beats)
    assert commands.main(["check-env", "navigation-2d"]) == 0
    assert capsys.readouterr().out.startswith("checking navigation-2d ... 0 s\n")


def test_command_rejects_an_unknown_environment(capsys):
    assert commands.main(["check-env", "navigation2d"]) == 2
    assert "did you mean navigation-2d" in capsys.readouterr().err
