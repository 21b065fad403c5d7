"""A policy without learner and torch, a transport without a network, and a server in a thread."""

import threading
from collections import deque
from contextlib import contextmanager

import numpy as np

from metarl.core.env import EnvSpec
from metarl.core.tasks import Uniform
from metarl.deployment.serving.limits import read_limits
from metarl.deployment.serving.log import Log
from metarl.deployment.serving.server import Server


def spec(**changes):
    """A robot with two observations and three controls, whose home pose is 0.5, -1, 0."""
    values = {
        "name": "echo", "version": 1, "obs_size": 2, "action_size": 3, "horizon": 10, "dt": 0.02,
        "action_scale": 2.0, "tasks": Uniform(()), "reward": "", "floors": {},
        "action_centre": (0.5, -1.0, 0.0),
    }  # fmt: skip
    return EnvSpec(**(values | changes))


class EchoPolicy:
    """Its controls are the sum of the observations of a trial, and the two last numbers."""

    def __init__(self, **changes):
        self.spec, self.sessions = spec(**changes), []

    def start(self):
        self.sessions.append(EchoSession())
        return self.sessions[-1]


class EchoSession:
    """Keeps its calls."""

    def __init__(self):
        self.calls, self.total, self.num_unusable = [], 0.0, 0

    def act(self, obs, reward=None, done=False):
        obs = np.asarray(obs, dtype=np.float32)
        if obs[0] == 666.0:
            raise RuntimeError("the policy\nis broken")
        self.calls.append(("act", obs.tolist(), reward))
        if not np.isfinite(obs).all():
            self.num_unusable += 1
            return np.array([0.5, -1.0, 0.0])
        self.total += float(obs.sum())
        return np.array([self.total, *obs.astype(float)])

    def end_episode(self, reward=None, done=False, obs=None):
        self.calls.append(("end", reward, done))

    def adapt(self):
        self.calls.append(("adapt",))


class Wire:
    """A transport whose messages are put into it, with a clock that is set by hand."""

    name, is_text, is_over = "a wire", False, False

    def __init__(self):
        self.arriving, self.replies, self.dropped, self.now = deque(), [], [], 100.0

    def receive(self, timeout):
        return self.arriving.popleft() if self.arriving else None

    def send(self, message, peer):
        self.replies.append((message, peer))

    def drop(self, peer):
        self.dropped.append(peer)

    def clock(self):
        return self.now


def make_server(policy, transport, *, ends=None, rate=None, watchdog=0.1, log=None, clock=None):
    limits = read_limits(policy.spec, ends, rate)
    clocks = {} if clock is None else {"clock": clock}
    return Server(policy, transport, limits, watchdog=watchdog, log=log or Log(None), **clocks)


@contextmanager
def running(server):
    """Runs a server in a thread."""
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield
    finally:
        server.stop()
        thread.join(10.0)
        assert not thread.is_alive()
