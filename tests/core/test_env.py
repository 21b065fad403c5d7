"""Capabilities of environments and learners, and the checks of arguments."""

from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import pytest

from metarl.core.env import (
    EnvSpec,
    check_streams,
    check_tasks,
    missing_members,
    supports,
)
from metarl.core.tasks import Uniform, Variable

T = TypeVar("T")


class Walks(Protocol):
    def walk(self) -> int: ...


class Runs(Walks, Protocol):
    """Inherits a method, and has an attribute and a property of its own."""

    top_speed: float

    @property
    def stamina(self) -> float: ...

    def run(self) -> int: ...


class Holds(Protocol[T]):
    def hold(self, item: T) -> T: ...

    @classmethod
    def grow(cls) -> Any: ...


class Runner:
    top_speed = 10.0

    def __init__(self):
        self.stamina = 1.0

    def walk(self):
        return 1

    def run(self):
        return 2


def test_supports_an_object_with_all_members():
    runner = Runner()
    assert supports(runner, Walks) and supports(runner, Runs)
    assert missing_members(runner, Runs) == []
    assert missing_members(runner, Holds) == ["grow", "hold"]


def test_missing_members_names_what_an_object_lacks():
    class Incomplete:
        def run(self):
            return 0

    assert missing_members(Incomplete(), Runs) == ["stamina", "top_speed", "walk"]
    assert not supports(Incomplete(), Runs)
    assert missing_members(object(), Walks) == ["walk"]


def test_supports_a_function_as_instance_attribute():
    runner = Runner()
    runner.hold, runner.grow = (lambda item: item), Runner
    assert supports(runner, Holds)


@pytest.mark.parametrize("value", [None, 3, "walk"])
def test_member_none_or_not_callable_is_missing(value):
    runner = Runner()
    runner.walk = value
    assert missing_members(runner, Runs) == ["walk"]


def test_attribute_none_is_missing():
    runner = Runner()
    runner.top_speed = None
    assert missing_members(runner, Runs) == ["top_speed"]


def test_property_counts_without_being_read():
    class Tired(Runner):
        __init__ = object.__init__

        @property
        def stamina(self):
            raise AssertionError("read")

    assert supports(Tired(), Runs)


def test_annotation_without_value_is_missing():
    @dataclass
    class Unset:
        top_speed: float

    class Bare:
        top_speed: float

    class HasTopSpeed(Protocol):
        top_speed: float

    assert supports(Unset(1.0), HasTopSpeed)
    assert missing_members(Bare(), HasTopSpeed) == ["top_speed"]


class Forwards:
    """Forwards what it lacks, and so has no capability itself."""

    def __init__(self, inner):
        self._inner = inner

    def __getattr__(self, name):
        return getattr(self._inner, name)


def test_forwarded_members_are_not_supported():
    forwarding = Forwards(Runner())
    assert forwarding.run() == 2
    assert not supports(forwarding, Runs)
    assert missing_members(forwarding, Walks) == ["walk"]


class Wrapper(Runner):
    """Has the members of every capability, and supports those of its inner object."""

    def __init__(self, inner):
        super().__init__()
        self._inner = inner

    @property
    def capabilities(self):
        return [each for each in (Walks, Runs) if supports(self._inner, each)]


def test_wrapper_supports_what_it_declares():
    class Walker:
        def walk(self):
            return 1

    assert supports(Wrapper(Runner()), Runs)
    walker = Wrapper(Walker())
    assert supports(walker, Walks) and not supports(walker, Runs)
    assert missing_members(walker, Runs) == []  # though it has all members
    assert not supports(Wrapper(object()), Walks)
    # also through a wrapper of a wrapper, and never by forwarding the declaration
    assert supports(Wrapper(Wrapper(Walker())), Walks)
    assert not supports(Wrapper(Wrapper(Walker())), Runs)
    assert not supports(Forwards(Wrapper(Runner())), Walks)


def test_supports_a_generic_protocol():
    class Hand(Generic[T]):
        def hold(self, item: T) -> T:
            return item

        @classmethod
        def grow(cls):
            return cls()

    assert supports(Hand(), Holds)


# --- checks of arguments

SPEC = EnvSpec(
    name="test",
    version=1,
    obs_size=1,
    action_size=1,
    horizon=2,
    dt=1.0,
    action_scale=1.0,
    tasks=Uniform((Variable("a", "1", 0.0, 1.0), Variable("b", "1", 0.0, 1.0))),
    reward="0",
    floors={},
)
RNGS = [np.random.default_rng(row) for row in range(3)]


def test_check_tasks_returns_float64():
    tasks = check_tasks(SPEC, np.array([[1, 2], [3, 4]], dtype=np.int8))
    assert tasks.dtype == np.float64 and tasks.tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("tasks", "shape"),
    [([0.5, 0.5], r"\(2,\)"), ([[0.5]], r"\(1, 1\)"), ([[0.5, np.nan]], r"\(1, 2\)")],
)
def test_check_tasks_names_environment_and_shape(tasks, shape):
    message = rf"test: tasks must be finite and \(N, 2\), got {shape}"
    with pytest.raises(ValueError, match=message):
        check_tasks(SPEC, np.array(tasks))


def test_check_streams_names_what_is_missing():
    check_streams(SPEC, 3, RNGS)
    with pytest.raises(RuntimeError, match="test: call set_tasks before reset"):
        check_streams(SPEC, None, RNGS)
    with pytest.raises(ValueError, match="test: 4 rows need as many streams, got 3"):
        check_streams(SPEC, 4, RNGS)
