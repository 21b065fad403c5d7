"""Environments with values of wrong types, side effects, or output; workers import them by name."""

import multiprocessing
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from plugin_envs import Box, Spot, variant


def odd(name, **attributes):
    """Makes a class like Spot with other attributes."""
    return variant(name, **{"__module__": __name__, **attributes})


class ComplexObs(Spot):
    def obs(self):
        return super().obs() + 1j


class ComplexReward(Spot):
    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, reward + 1j, *rest


class RewardNone(Spot):
    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, None, *rest


class FalseText(Spot):
    def step(self, action):
        obs, reward, _, *rest = super().step(action)
        return obs, reward, "False", *rest


def swapped():
    """Returns a Box whose bounds were exchanged after it was made."""
    box = Box(-1.0, 1.0, (2,))
    box.low, box.high = box.high, box.low
    return box


RaisesInTest = odd("RaisesInTest", sample_test_tasks=lambda self, rng, n: 1 // 0)
FewTestTasks = odd("FewTestTasks", sample_test_tasks=lambda self, rng, n: [0.1] * 3)
OtherTestTasks = odd("OtherTestTasks", sample_test_tasks=lambda self, rng, n: [(0.1, 0.2)] * n)
Incomparable = odd("Incomparable", sample_tasks=lambda self, rng, n: [lambda: 0.0] * n)
HorizonTrue = odd("HorizonTrue", horizon=True)
HorizonText = odd("HorizonText", horizon="8")
ScaleText = odd("ScaleText", action_scale="2")
ScaleNan = odd("ScaleNan", action_scale=np.nan)
NanFloor = odd("NanFloor", floors={"stand still": np.nan})
ListFloors = odd("ListFloors", floors=[1.0])
DtZero = odd("DtZero", dt=0.0)
DtNan = odd("DtNan", dt=np.nan)
FpsText = odd("FpsText", metadata={"render_fps": "20"})
SwappedActions = odd("SwappedActions", action_space=swapped())
SwappedObs = odd("SwappedObs", observation_space=swapped())
EmptyObs = odd("EmptyObs", observation_space=Box(-1.0, 1.0, (0,)))
EmptyActions = odd("EmptyActions", action_space=Box(-1.0, 1.0, (0,)))
OddVariables = odd("OddVariables", task_variables=[("spot", 0.0, 1.0)])
HalfLine = odd("HalfLine", action_space=Box(0.0, np.inf, (1,)))


class GlobalRandom(Spot):
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = random.uniform(-0.1, 0.1)
        return self.obs(), {}


class StartsThreads(Spot):
    """Starts a thread at every reset that never ends."""

    def reset(self, *, seed=None, options=None):
        threading.Thread(target=time.sleep, args=(1000.0,), daemon=True).start()
        return super().reset(seed=seed)


class LeaksFiles(Spot):
    kept = []

    def reset(self, *, seed=None, options=None):
        self.kept.append(open(os.devnull))
        return super().reset(seed=seed)


class Floods(Spot):
    """Prints without end, from Python and from C, with control characters."""

    def step(self, action):
        print("\x1b]0;title\x07 step", self.t)
        os.write(1, b"raw line\n" * 2000)
        print("to the error output", file=sys.stderr)
        return super().step(action)


class RareReward(Spot):
    """Pays only at the spot, which random actions do not reach."""

    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, float(abs(self.x - self.spot) < 1e-9), *rest


class EndsAtOnce(Spot):
    """Ends every episode in its first step."""

    def step(self, action):
        obs, reward, *_ = super().step(action)
        return obs, reward, True, False, {}


class ClosesLate(Spot):
    """Notes that it was closed, and owns two processes."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        self.child = multiprocessing.Process(target=time.sleep, args=(1000.0,))
        self.child.start()
        self.other = subprocess.Popen(["sleep", "1000"])
        with open(os.environ["STARTED"], "a") as file:
            file.write(f"{self.child.pid}\n{self.other.pid}\n")

    def close(self):
        Path(f"{os.environ['STARTED']}.{os.getpid()}.{id(self)}").touch()


class LongMessage(Spot):
    def step(self, action):
        raise RuntimeError("\x1b[2J" + "x" * 100_000)


class BadMessage(Spot):
    def step(self, action):
        class Odd(Exception):
            def __str__(self):
                raise ValueError("no text")

        raise Odd


class EvilTexts(Spot):
    """A \x1b[31mred\x1b[0m environment."""

    floors = {"stand\x1bstill": -8.0}
    task_variables = [("sp\x07ot", "1\n", -1.0, 1.0)]

    def task_words(self, task):
        return "\x1b[2Jtask " + "x" * 5000
