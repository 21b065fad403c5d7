"""MuJoCo features that our environments switch off to be faster, without other effects."""

import copy

import gymnasium
import mujoco
import numpy as np
import pytest

from metarl.core.rng import stream
from metarl.envs.locomotion import profiler
from metarl.envs.plugins.subproc_env import SubprocEnv
from metarl.envs.registry import make

STEP = mujoco.mjtTimer.mjTIMER_STEP


def is_profiling():
    """Tests whether the profiler times a simulation."""
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><freejoint/><geom size='1'/></body></worldbody></mujoco>"
    )
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data, nstep=2)
    return data.timer[STEP].duration > 0.0


@pytest.fixture(autouse=True)
def restore_profiler():
    profiler.start()
    yield
    profiler.stop()


def test_make_switches_the_profiler_off():
    assert is_profiling()
    make("half-cheetah-dir", 1)
    assert not is_profiling()


def test_profile_runs_the_profiler_meanwhile():
    profiler.stop()
    profiler.stop()  # the second call must not lose the saved clock
    with profiler.profile():
        assert is_profiling()
    assert not is_profiling()


def test_stop_keeps_a_callback_of_the_user():
    calls = []

    def clock():
        calls.append(None)
        return 0.0

    mujoco.set_mjcb_time(clock)
    try:
        profiler.stop()
        is_profiling()
    finally:
        mujoco.set_mjcb_time(None)
    assert calls


def test_stop_does_nothing_without_the_library(monkeypatch, tmp_path):
    monkeypatch.setattr(mujoco, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "libmujoco.so.9").write_text("not a library")
    profiler._clock.cache_clear()
    try:
        profiler.stop()
        assert is_profiling()
    finally:
        monkeypatch.undo()
        profiler._clock.cache_clear()


class Watched(gymnasium.Env):
    """Its observation is whether MuJoCo's profiler runs."""

    observation_space = gymnasium.spaces.Box(-1e9, 1e9, (1,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    spec = gymnasium.envs.registration.EnvSpec("Watched-v0", max_episode_steps=3)

    def sample_tasks(self, rng, n):
        return list(rng.uniform(size=(n, 1)))

    def set_task(self, task):
        pass

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.array([is_profiling()], dtype=np.float32), {}

    def step(self, action):
        return np.array([is_profiling()], dtype=np.float32), 0.0, False, False, {}


def test_profiler_is_off_in_worker_processes():
    assert Watched().reset()[0] == 1
    env = SubprocEnv("watched", Watched, 1)
    try:
        env.set_tasks(env.spec.tasks.sample(stream(0, "tasks"), 2), 1)
        assert (env.reset([stream(0, "row", row) for row in range(2)]) == 0).all()
    finally:
        env.close()


@pytest.mark.parametrize("name", ["half-cheetah-terrain", "ant-terrain", "humanoid-dir-payload"])
def test_island_search_does_not_change_the_physics(name):
    ends = []
    for islands in (False, True):
        env = make(name, 1)
        env.model = copy.copy(env.model)
        switch = int(mujoco.mjtDisableBit.mjDSBL_ISLAND)
        assert env.model.opt.disableflags & switch
        if islands:
            env.model.opt.disableflags &= ~switch
        env.set_tasks(env.spec.tasks.sample(np.random.default_rng(0), 4), 1)
        env.reset([np.random.default_rng(row) for row in range(4)])
        rng, alive = np.random.default_rng(1), np.ones(4, dtype=bool)
        for _ in range(100):
            env.step(rng.normal(size=(4, env.spec.action_size)), alive)
        ends.append(env.snapshot())
        env.close()
    np.testing.assert_array_equal(*ends)
