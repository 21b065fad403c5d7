"""The check before a training names what check-env names; the start refuses odd values."""

import functools
import time
from contextlib import closing

import odd_envs
import plugin_envs
import pytest

from metarl.builders import check_plugin
from metarl.core.errors import EnvironmentContractError
from metarl.envs.env_checker import check, quick_check, report
from metarl.envs.navigation import DenseGoal, NavigationEnv
from metarl.envs.plugins.subproc_env import PluginFailure, SubprocEnv
from metarl.envs.wrappers.observe_task import ObserveTask


def make(kind, threads=1):
    modules = (plugin_envs, odd_envs)
    found = next(getattr(module, kind) for module in modules if hasattr(module, kind))
    return SubprocEnv("mine", found, threads)


def named(kind):
    with closing(make(kind)) as env:
        return {f.name: f.violation or f"warning: {f.warning}" for f in quick_check(env)}


@pytest.mark.parametrize("kind", ["Spot", "Falls", "CutShort", "TwoWays", "Mazes", "Levers"])
def test_quick_check_passes_correct_plug_ins(kind):
    assert set(named(kind).values()) == {"warning: "}


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("IgnoresTask", "tasks differ", "8 tasks gave the same observations and rewards"),
        ("ForgetsTask", "tasks differ", "the task is lost at reset"),
        ("ForgetsTaskLater", "set_task survives reset", "the task lasts one episode only"),
        ("OneTask", "tasks", "all tasks are the same: [0.5]"),
        ("TasksOfTheirOwn", "tasks", "must depend on its stream only"),
        ("RaisesInTest", "tasks", "ZeroDivisionError"),
        ("FewTestTasks", "tasks", "sample_test_tasks(rng, 4) returned 3 tasks"),
        ("OtherTestTasks", "tasks", "the tasks are not all of one form"),
        ("GlobalRandom", "replay", "gave other results the second time"),
        ("NotRepeatable", "replay", "gave other results the second time"),
        ("SharesState", "replay", "gave other results the second time"),
        ("Remembers", "replay", "gave other results the second time"),
        ("OutOfBounds", "episode", "obs[1] is 4, outside of observation_space [-3, 3]"),
        ("NanReward", "episode", "step 2: the reward is nan"),
        ("ComplexObs", "episode", "the observation is of type complex128"),
        ("ComplexReward", "episode", "+1j); it must be one finite number"),
        ("RewardNone", "episode", "the reward is None; it must be one finite number"),
        ("FalseText", "episode", "terminated is 'False'; it must be True or False"),
        ("LongMessage", "episode", "RuntimeError: \\x1b[2Jxxx"),
        ("BadMessage", "episode", "Odd: its text cannot be read"),
        ("StartsThreads", "set_task survives reset", "warning: threads grow from"),
        ("LeaksFiles", "set_task survives reset", "warning: files grow from"),
        ("HalfLine", "sizes", "warning: action 0 goes from 0 to inf: outputs beyond"),
        ("EndsAtOnce", "horizon", "warning: every episode ended after 1 of 8 steps"),
        ("RareReward", "tasks differ", "warning: 8 tasks gave the same observations and rewards"),
    ],
)
def test_quick_check_names_the_kind(kind, name, words):
    found = named(kind)
    assert words in found[name] and all(len(text) < 1500 for text in found.values())


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("HorizonTrue", "the horizon is True, no whole number >= 1"),
        ("HorizonText", "the horizon is '8', no whole number >= 1"),
        ("ScaleText", "action_scale is '2'; it must be a finite number > 0"),
        ("ScaleNan", "action_scale is nan; it must be"),
        ("NanFloor", "floors['stand still'] is nan; it must be a finite number"),
        ("ListFloors", "floors is [1.0]; it must be a dict of numbers"),
        ("DtZero", "dt is 0.0; it must be a finite number > 0"),
        ("DtNan", "dt is nan"),
        ("FpsText", "render_fps is '20'"),
        ("SwappedActions", "the action space has the bounds [1, -1] at index 0"),
        ("SwappedObs", "the observation space has the bounds [1, -1] at index 0"),
        ("EmptyObs", "the observation space is empty"),
        ("EmptyActions", "the action space is empty"),
        ("OddVariables", "it must be (name, unit, low, high)"),
    ],
)
def test_start_refuses_the_value_by_name(kind, words):
    with pytest.raises(PluginFailure) as caught:
        make(kind)
    assert words in str(caught.value)


def test_rare_reward_is_a_warning_of_check_env():
    findings = check(functools.partial(make, "RareReward"))
    assert not any(finding.violation for finding in findings)
    assert "WARNING: 8 tasks gave the same observations and rewards" in report(findings)


def test_environments_of_metarl_are_not_checked():
    env = NavigationEnv("navigation-2d", DenseGoal())
    assert quick_check(env) == quick_check(ObserveTask(env)) == []


def test_quick_check_looks_through_wrappers():
    with closing(make("IgnoresTask")) as env:
        env._facts.variables[0].__dict__.update(low=-1.0, high=1.0)
        assert quick_check(ObserveTask(env))[-1].violation


class Slow(NavigationEnv):
    def reset(self, rngs):
        time.sleep(1.1)
        return super().reset(rngs)


def test_slow_environment_is_checked_in_part():
    began = time.monotonic()
    findings = quick_check(Slow("slow", DenseGoal()))
    assert findings[-1].warning == "episodes are slow, so that not all was checked"
    assert time.monotonic() - began < 8.0


def test_training_refuses_with_a_hint(capsys):
    hint = "metarl check-env mine checks more, --no-check trains all the same"
    with closing(make("IgnoresTask")) as env:
        with pytest.raises(EnvironmentContractError, match=hint):
            check_plugin("mine", env)
    with closing(make("HalfLine")) as env:
        check_plugin("mine", env)
    assert "metarl: warning: mine: sizes: action 0 goes" in capsys.readouterr().err
