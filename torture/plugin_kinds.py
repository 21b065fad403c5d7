"""Plug-in environments that misbehave, each in one way; workers import them by name."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from typing import Any, ClassVar

import gymnasium
import numpy as np

Box = gymnasium.spaces.Box


class Good(gymnasium.Env):
    """A point on a line that must reach a hidden spot, with no fault."""

    observation_space = Box(-100.0, 100.0, (2,), dtype=np.float64)
    action_space = Box(-1.0, 1.0, (1,))
    horizon = 8
    task_variables = [("spot", "m", -1.0, 1.0)]

    def sample_tasks(self, rng, n):
        return [{"spot": float(x)} for x in rng.uniform(-1.0, 1.0, n)]

    def set_task(self, task):
        self.spot = task["spot"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.uniform(-0.1, 0.1), 0
        return self.obs(), {}

    def obs(self) -> Any:
        return np.array([self.x, float(self.t)])

    def reward(self) -> Any:
        return -abs(self.x - self.spot)

    def step(self, action):
        self.t += 1
        self.x += 0.1 * float(action[0])
        return self.obs(), self.reward(), False, False, {}


def _kind(name: str, **attributes: Any) -> type:
    return type(name, (Good,), {"__module__": __name__, **attributes})


# --- numbers and shapes ---------------------------------------------------------------------------

NanReward = _kind("NanReward", reward=lambda self: np.nan)
InfiniteObs = _kind("InfiniteObs", obs=lambda self: np.array([self.x, np.inf]))
ComplexObs = _kind("ComplexObs", obs=lambda self: np.array([self.x + 1j, 0.0]))
ComplexReward = _kind("ComplexReward", reward=lambda self: 1.0 + 2.0j)
TextReward = _kind("TextReward", reward=lambda self: "high")
ArrayReward = _kind("ArrayReward", reward=lambda self: np.zeros(3))
NoReward = _kind("NoReward", reward=lambda self: None)
HugeReward = _kind("HugeReward", reward=lambda self: 1e300)
WrongShape = _kind("WrongShape", obs=lambda self: np.zeros(3))
NestedObs = _kind("NestedObs", obs=lambda self: [[self.x], [0.0]])
TextObs = _kind("TextObs", obs=lambda self: np.array(["a", "b"]))
ObjectObs = _kind("ObjectObs", obs=lambda self: np.array([object(), None]))
ObsOutside = _kind("ObsOutside", obs=lambda self: np.array([1e6, 0.0]))
EmptyObs = _kind("EmptyObs", observation_space=Box(0.0, 1.0, (0,)), obs=lambda self: np.zeros(0))
EmptyAction = _kind("EmptyAction", action_space=Box(0.0, 1.0, (0,)))


def _bounds(low: list[float], high: list[float]) -> Any:
    """Returns a Box with bounds that its constructor may refuse."""
    box = Box(-1.0, 1.0, (len(low),))
    box.low, box.high = np.float32(low), np.float32(high)
    return box


CrossedBounds = _kind("CrossedBounds", action_space=_bounds([1.0], [-1.0]))
OneSidedBounds = _kind("OneSidedBounds", action_space=_bounds([0.0], [np.inf]))
NanBounds = _kind("NanBounds", action_space=_bounds([np.nan], [1.0]))

# --- declarations ---------------------------------------------------------------------------------

NoHorizon = _kind("NoHorizon", horizon=None)
TrueHorizon = _kind("TrueHorizon", horizon=True)
NegativeHorizon = _kind("NegativeHorizon", horizon=-5)
FloatHorizon = _kind("FloatHorizon", horizon=8.5)
ZeroStep = _kind("ZeroStep", dt=0.0)
NanStep = _kind("NanStep", dt=float("nan"))
TextScale = _kind("TextScale", action_scale="2")
NanScale = _kind("NanScale", action_scale=float("nan"))
NanFloor = _kind("NanFloor", floors={"stand still": float("nan")})
TextFloor = _kind("TextFloor", floors={"stand still": "low"})
DictObs = _kind("DictObs", observation_space=gymnasium.spaces.Dict({"x": Box(-1.0, 1.0, (1,))}))
Pictures = _kind("Pictures", observation_space=Box(0, 255, (64, 64, 3), dtype=np.uint8))
Switches = _kind("Switches", action_space=gymnasium.spaces.MultiBinary(3))
TooManyVariables = _kind("TooManyVariables", task_variables=[("a", "1", 0, 1), ("b", "1", 0, 1)])


class NoTasks(gymnasium.Env):
    """Has no tasks at all."""

    observation_space = action_space = Box(-1.0, 1.0, (1,))
    horizon = 8


# --- tasks ----------------------------------------------------------------------------------------


class TasksIgnored(Good):
    def set_task(self, task):
        self.spot = 0.5


class TasksForgotten(Good):
    def reset(self, *, seed=None, options=None):
        self.spot = 0.5
        return super().reset(seed=seed)


class TasksAlike(Good):
    def sample_tasks(self, rng, n):
        return [{"spot": 0.5}] * n


class TooFewTasks(Good):
    def sample_tasks(self, rng, n):
        return super().sample_tasks(rng, n - 1)


class TasksOfTheirOwn(Good):
    def sample_tasks(self, rng, n):
        return super().sample_tasks(np.random.default_rng(), n)


class NanTasks(Good):
    def sample_tasks(self, rng, n):
        return [{"spot": float("nan")}] * n


class RefusesTask(Good):
    def set_task(self, task):
        raise KeyError("velocity")


# --- randomness and state -------------------------------------------------------------------------


class NotRepeatable(Good):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None)


class GlobalRandom(Good):
    def step(self, action):
        self.x += 0.01 * random.random()
        return super().step(action)


class SharedState(Good):
    pull: ClassVar[float] = 0.0

    def step(self, action):
        SharedState.pull = 0.5 * SharedState.pull + float(action[0])
        return super().step(action * 0 + SharedState.pull)


class Remembers(Good):
    x = 0.0

    def reset(self, *, seed=None, options=None):
        before = self.x
        super().reset(seed=seed)
        self.x += 0.5 * before
        return self.obs(), {}


# --- steps ----------------------------------------------------------------------------------------


class TextEnd(Good):
    def step(self, action):
        obs, reward, *_ = super().step(action)
        return obs, reward, "False", False, {}


class ArrayEnd(Good):
    def step(self, action):
        obs, reward, *_ = super().step(action)
        return obs, reward, np.array([False, True]), False, {}


class OldStep(Good):
    def step(self, action):
        return super().step(action)[:4]


class OldReset(Good):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class EndsAtOnce(Good):
    def step(self, action):
        obs, reward, *_ = super().step(action)
        return obs, reward, True, False, {}


class Raises(Good):
    def step(self, action):
        raise ZeroDivisionError("no\nfriction")


class RaisesLong(Good):
    def step(self, action):
        raise ValueError("a" * 100_000)


class RaisesControls(Good):
    def step(self, action):
        raise ValueError("\x1b[2J\x07 red \x1b[31m")


class Interrupts(Good):
    def step(self, action):
        raise KeyboardInterrupt


class Exits(Good):
    def step(self, action):
        sys.exit(3)


class RecursesForever(Good):
    def step(self, action):
        return self.step(action)


# --- processes ------------------------------------------------------------------------------------


class Dies(Good):
    def step(self, action):
        os.kill(os.getpid(), signal.SIGKILL)


class Hangs(Good):
    def step(self, action):
        time.sleep(600.0)


class CrashesOnce(Good):
    """Crashes in the first process that makes five steps, as a library may."""

    def step(self, action):
        mark = f"crashed-{os.getppid()}"
        if self.t == 4 and not os.path.exists(mark):
            open(mark, "w").close()
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().step(action)


class LeavesAtOnce(Good):
    def step(self, action):
        os._exit(0)


class StartsThreads(Good):
    def step(self, action):
        threading.Thread(target=time.sleep, args=(60.0,), daemon=True).start()
        return super().step(action)


class Leaks(Good):
    kept: ClassVar[list[bytes]] = []

    def step(self, action):
        self.kept.append(os.urandom(1_000_000))
        return super().step(action)


class Floods(Good):
    def step(self, action):
        print("x" * 10_000, flush=True)
        return super().step(action)


class FailsToStart(Good):
    def __init__(self):
        raise OSError("no license")


KINDS = [
    name
    for name, value in list(globals().items())
    if isinstance(value, type) and issubclass(value, gymnasium.Env) and name != "Good"
]
"""Names of the environments with a fault."""
