"""What our environments switch off in MuJoCo to be faster, and that it changes nothing else."""

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


def profiled():
    """Whether the profiler measures how long a simulation takes."""
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><freejoint/><geom size='1'/></body></worldbody></mujoco>"
    )
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data, nstep=2)
    return data.timer[STEP].duration > 0.0


@pytest.fixture(autouse=True)
def as_it_was():
    profiler.start()
    yield
    profiler.stop()


def test_making_an_environment_switches_the_profiler_off():
    assert profiled()
    make("half-cheetah-dir", 1)
    assert not profiled()


def test_it_runs_again_meanwhile():
    profiler.stop()
    profiler.stop()  # the second call must not lose what the first took
    with profiler.profile():
        assert profiled()
    assert not profiled()


def test_a_callback_of_the_users_own_stays():
    calls = []

    def clock():
        calls.append(None)
        return 0.0

    mujoco.set_mjcb_time(clock)
    try:
        profiler.stop()
        profiled()
    finally:
        mujoco.set_mjcb_time(None)
    assert calls


def test_without_the_library_nothing_happens(monkeypatch, tmp_path):
    monkeypatch.setattr(mujoco, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "libmujoco.so.9").write_text("not a library")
    profiler._clock.cache_clear()
    try:
        profiler.stop()
        assert profiled()
    finally:
        monkeypatch.undo()
        profiler._clock.cache_clear()


class Watched(gymnasium.Env):
    """Observes whether MuJoCo's profiler runs."""

    observation_space = gymnasium.spaces.Box(-1e9, 1e9, (1,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    spec = gymnasium.envs.registration.EnvSpec("Watched-v0", max_episode_steps=3)

    def sample_tasks(self, rng, n):
        return list(rng.uniform(size=(n, 1)))

    def set_task(self, task):
        pass

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.array([profiled()], dtype=np.float32), {}

    def step(self, action):
        return np.array([profiled()], dtype=np.float32), 0.0, False, False, {}


def test_plug_ins_in_processes_do_without_it():
    assert Watched().reset()[0] == 1
    env = SubprocEnv("watched", Watched, 1)
    try:
        env.set_tasks(env.spec.tasks.sample(stream(0, "tasks"), 2), 1)
        assert (env.reset([stream(0, "row", row) for row in range(2)]) == 0).all()
    finally:
        env.close()


@pytest.mark.parametrize("name", ["half-cheetah-terrain", "ant-terrain", "humanoid-dir-payload"])
def test_without_islands_the_physics_have_the_same_bits(name):
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
