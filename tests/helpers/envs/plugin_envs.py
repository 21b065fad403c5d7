"""Environments that keep or break the contract of a plug-in; workers import them by name."""

import itertools
import os
import signal
import time
from collections import namedtuple

import gymnasium
import numpy as np

Box = gymnasium.spaces.Box


class Spot(gymnasium.Env):
    """A point on a line that must reach a hidden spot."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    observation_space = Box(-np.inf, np.inf, (2,))
    action_space = Box(-1.0, 1.0, (1,))
    horizon = 8

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def sample_tasks(self, rng, n):
        return [{"spot": float(x)} for x in rng.uniform(-1.0, 1.0, n)]

    def set_task(self, task):
        self.spot = task["spot"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.uniform(-0.1, 0.1), 0
        return self.obs(), {}

    def obs(self):
        return np.array([self.x, self.t])

    def step(self, action):
        self.t += 1
        self.x += 0.1 * float(action[0])
        return self.obs(), -abs(self.x - self.spot), False, False, {}

    def render(self):
        picture = np.zeros((10, 20, 3), dtype=np.uint8)
        picture[:, int(10 + 5 * self.x)] = 255
        return picture


def variant(name, **attributes):
    """Makes a class like Spot with other attributes."""
    return type(name, (Spot,), {"__module__": __name__, **attributes})


Dict, Tuple = gymnasium.spaces.Dict, gymnasium.spaces.Tuple
PICTURE = Box(0, 255, (64, 64, 3), dtype=np.uint8)
ARM_AND_PICTURE = Dict({"arm": Box(-1.0, 1.0, (7,)), "image": PICTURE})
EYES = Dict({"eyes": Tuple([Box(0.0, 1.0, (2,)), Box(0.0, 1.0, (8, 8, 1))])})

Images = variant("Images", observation_space=PICTURE)
ChannelsFirst = variant("ChannelsFirst", observation_space=Box(0.0, 1.0, (3, 8, 8)))
Grey = variant("Grey", observation_space=Box(0, 255, (64, 48), dtype=np.uint8))
ImageInDict = variant("ImageInDict", observation_space=ARM_AND_PICTURE)
ImageInTupleInDict = variant("ImageInTupleInDict", observation_space=EYES)
Matrix = variant("Matrix", observation_space=Box(-1.0, 1.0, (2, 3)))
DictObs = variant("DictObs", observation_space=Dict({"x": Box(-1.0, 1.0, (1,))}))
Switches = variant("Switches", action_space=gymnasium.spaces.MultiBinary(3))
OutOfBounds = variant("OutOfBounds", observation_space=Box(-3.0, 3.0, (2,)))
TasksOutOfBounds = variant("TasksOutOfBounds", task_variables=[("spot", "1", 0.0, 1.0)])
NoHorizon = variant("NoHorizon", horizon=None)
Blind = variant("Blind", metadata={"render_modes": ["human"]})


class Falls(Spot):
    """Ends in its fourth step if the spot is on the left."""

    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        assert self.t <= 4 or self.spot >= 0, "stepped after its end"
        return obs, reward, self.spot < 0 and self.t == 4, False, info


class CutShort(Spot):
    """Is truncated in its third step if the spot is on the left, and at the horizon."""

    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, self.t in ((3, 8) if self.spot < 0 else (8,)), info


class Raises(Spot):
    def step(self, action):
        if self.t == 2 and self.spot > 0.5:
            raise ZeroDivisionError("no\nfriction")
        return super().step(action)


class RaisesInterrupt(Spot):
    def step(self, action):
        if self.t == 2 and self.spot > 0.5:
            raise KeyboardInterrupt("by a key")
        return super().step(action)


class InterruptInSample(Spot):
    def sample_tasks(self, rng, n):
        raise KeyboardInterrupt("by a key")


class TakesInterrupts(Spot):
    """Installs a handler for Ctrl-C, as some robot libraries do."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Hangs(Spot):
    def step(self, action):
        if self.t == 2 and self.spot > 0.5:
            time.sleep(600.0)
        return super().step(action)


class Aborts(Spot):
    def step(self, action):
        if self.t == 2 and self.spot > 0.5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


class AbortsOnce(Spot):
    """Kills the first process that comes to step 5, as a segmentation fault would."""

    def step(self, action):
        if self.t == 5 and self.spot > 0.5 and not os.path.exists(os.environ["ABORTED"]):
            open(os.environ["ABORTED"], "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


class HangsInReset(Spot):
    def reset(self, *, seed=None, options=None):
        if self.spot > 0.5:
            time.sleep(600.0)
        return super().reset(seed=seed)


class AbortsInSample(Spot):
    """Dies when it draws fewer tasks than the start does."""

    def sample_tasks(self, rng, n):
        if n < 64:
            die()
        return super().sample_tasks(rng, n)


class RandomAbortsOnce(AbortsOnce):
    def obs(self):
        return np.array([self.x + 1e-9 * time.monotonic(), self.t])


class NanReward(Spot):
    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, (np.nan if self.t == 3 and self.spot > 0.5 else reward), *rest


class NanObs(Spot):
    def obs(self):
        return np.array([self.x, np.inf if self.t == 3 else 0.0])


class WrongShape(Spot):
    def obs(self):
        return np.zeros(3 if self.t == 3 else 2)


class OldStep(Spot):
    def step(self, action):
        return super().step(action)[:4]


class OldReset(Spot):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class RefusesTask(Spot):
    def set_task(self, task):
        raise KeyError("velocity")


class IgnoresTask(Spot):
    def set_task(self, task):
        self.spot = 0.5


class ForgetsTask(Spot):
    """Returns to a spot of its own at every reset."""

    def reset(self, *, seed=None, options=None):
        self.spot = 0.5
        return super().reset(seed=seed)


class ForgetsTaskLater(Spot):
    """Keeps its task for one episode."""

    def set_task(self, task):
        self.next = task["spot"]

    def reset(self, *, seed=None, options=None):
        self.spot, self.next = self.next, 0.5
        return super().reset(seed=seed)


class NotRepeatable(Spot):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None)


class Remembers(Spot):
    """Starts where the last episode ended."""

    x = 0.0

    def reset(self, *, seed=None, options=None):
        before = self.x
        super().reset(seed=seed)
        self.x += 0.5 * before
        return self.obs(), {}


class SharesState(Spot):
    """Its copies in one process share state."""

    def step(self, action):
        SharesState.pull = 0.5 * getattr(SharesState, "pull", 0.0) + float(action[0])
        return super().step(action * 0 + SharesState.pull)


class EndsEarly(Spot):
    """Ends after 5 steps, although its horizon is 8."""

    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, self.t == 5, info


class OneTask(Spot):
    def sample_tasks(self, rng, n):
        return [{"spot": 0.5}] * n


class TasksOfTheirOwn(Spot):
    def sample_tasks(self, rng, n):
        return super().sample_tasks(np.random.default_rng(), n)


class Vector(Spot):
    """The task is a point."""

    def sample_tasks(self, rng, n):
        return rng.uniform(-1.0, 1.0, (n, 2))

    def set_task(self, task):
        assert isinstance(task, np.ndarray) and task.shape == (2,)
        self.spot = task[0] - task[1]


class TwoWays(Spot):
    """Two tasks, whole numbers."""

    task_variables = [("way", "m", -1.0, 1.0)]
    dt, action_scale, floors = 0.5, 0.25, {"stand still": -8}

    def sample_tasks(self, rng, n):
        return [int(way) for way in rng.choice([-1, 1], n)]

    def set_task(self, task):
        assert type(task) is int
        self.spot = task


Maze = namedtuple("Maze", "name place")


class Mazes(Spot):
    """Opaque tasks, and test tasks."""

    def sample_tasks(self, rng, n, kind="train"):
        places = rng.permuted(np.linspace(-1, 1, n))  # stratified: not n draws of one task
        return [Maze(f"{kind} {i}", [place]) for i, place in enumerate(places)]

    def sample_test_tasks(self, rng, n):
        return self.sample_tasks(rng, n, "test")

    def set_task(self, task):
        assert isinstance(task, Maze)
        self.spot = task.place[0]

    def task_words(self, task):
        return f"maze {task.name}"


class MazesOfTheirOwn(Mazes):
    draws = itertools.count()

    def sample_tasks(self, rng, n):
        mazes, turn = super().sample_tasks(rng, n), next(self.draws) % n
        return mazes[turn:] + mazes[:turn]


class Sends(Spot):
    """Observes the action it receives, and checks its type."""

    observation_space = Box(-np.inf, np.inf, (2,))
    action_space = Box(np.float32([-1.0, 0.0]), np.float32([1.0, 3.0]))
    action_scale = 2.0

    def step(self, action):
        assert action.dtype == self.action_space.dtype
        self.t += 1
        return action, 0.0, False, False, {}


class NoTasks(gymnasium.Env):
    observation_space = action_space = Box(-1.0, 1.0, (1,))


class TooFewTasks(Spot):
    def sample_tasks(self, rng, n):
        return super().sample_tasks(rng, n - 1)


class NoRenderMode(Spot):
    def __init__(self):
        super().__init__()


class DrawsAnotherEpisode(Spot):
    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, reward + (1.0 if self.render_mode else 0.0), *rest


class CannotDraw(Spot):
    def render(self):
        raise RuntimeError("no display")


class Levers(Spot):
    """Three levers, numbered from 5; one of them pays."""

    observation_space = Box(0.0, 8.0, (1,))
    action_space = gymnasium.spaces.Discrete(3, start=5)

    def sample_tasks(self, rng, n):
        return [int(lever) for lever in rng.integers(5, 8, n)]

    def set_task(self, task):
        self.lever = task

    def obs(self):
        return np.array([float(self.t)])

    def step(self, action):
        assert type(action) is np.int64 and action in self.action_space
        self.t += 1
        return self.obs(), float(action == self.lever), False, False, {}


def not_here():
    raise ModuleNotFoundError("no module of that name here")


class Elsewhere:
    """A maker that a worker cannot unpickle, because it lacks a module."""

    def __call__(self):
        return Spot()

    def __reduce__(self):
        return not_here, ()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class DiesAtTheStart:
    """A maker that kills the worker it is sent to."""

    def __reduce__(self):
        return die, ()
