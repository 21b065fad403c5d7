"""Kinds of things that make environments, given by name and as objects."""

import importlib
import sys
from contextlib import closing

import pytest

import metarl
from metarl import builders
from metarl.core.errors import EnvironmentContractError
from metarl.envs.plugins.subproc_env import SubprocEnv

MAKERS = """
import gymnasium
from metarl.envs.navigation import DenseGoal, NavigationEnv
from plugin_envs import Spot

def nothing(): ...
def One(name): ...
class Plain: ...
def keyword(name, *, threads): ...

def easy(level=1, size=2):
    return gymnasium.wrappers.OrderEnforcing(Spot())

class Batch(NavigationEnv):
    def __init__(self, name, threads):
        super().__init__(name, DenseGoal(), horizon=threads)

def batch(name="x", threads=3):
    return Batch(name, threads)
"""
KINDS = (
    "a gymnasium.Env class, a function that makes one without arguments, "
    "or a function (name, threads)"
)


@pytest.fixture
def makers(tmp_path, monkeypatch):
    """The module of the makers."""
    (tmp_path / "makers.py").write_text(MAKERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("makers", None)
    yield importlib.import_module("makers")
    sys.modules.pop("makers", None)


@pytest.fixture(params=["by name", "as an object"])
def build(request, makers):
    """Returns a function that builds `makers:...`, by its name or as an object."""

    def build(name, threads=0):
        thing = f"makers:{name}" if request.param == "by name" else vars(makers)[name]
        return builders.make_env(thing, threads)

    return build


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        ("nothing", "makes a NoneType, not a gymnasium.Env"),
        ("One", f"is a function (name); must be {KINDS}"),
        ("Plain", f"is a class that is no gymnasium.Env; must be {KINDS}"),
        ("keyword", f"is a function (name, *, threads); must be {KINDS}"),
    ],
)
def test_thing_of_another_kind_is_refused(thing, text, build):
    with pytest.raises(EnvironmentContractError) as caught:
        build(thing)
    assert str(caught.value) == f"--env makers:{thing}: {text}"


def test_function_without_arguments_makes_one_environment(build):
    with closing(build("easy", 1)) as env:
        assert isinstance(env, SubprocEnv)
        assert (env.spec.name, env.spec.obs_size) == ("makers:easy", 2)


def test_run_of_a_function_is_loaded_again(makers, tmp_path):
    metarl.train(
        makers.easy,
        iterations=1,
        evaluate=False,
        run_dir=tmp_path / "run",
        device="cpu",
        learner={"hidden_sizes": [8]},
        sampler={"num_tasks": 2, "num_episodes": 2, "threads": 1},
        trainer={"logger": "none"},
    )
    loaded = metarl.load(tmp_path / "run", threads=1)
    result = metarl.evaluate(loaded, num_tasks=2, num_adaptations=0)
    loaded.close()
    assert result["env"] == "makers:easy"


@pytest.mark.parametrize("thing", ["Batch", "batch"])
def test_class_and_function_of_name_and_threads_make_a_batch(thing, build):
    env = build(thing, 5)
    assert (env.spec.name, env.spec.horizon) == (f"makers:{thing}", 5)
