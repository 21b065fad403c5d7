"""What sessions of torch and of ONNX have in common: reused arrays, refused calls, long use."""

import numpy as np
import pytest

import metarl
from metarl.core.errors import ConfigError
from metarl.deployment.onnx_policy import OnnxPolicy
from metarl.deployment.signals import MAX_PENDING


@pytest.fixture(params=["torch", "onnx"])
def load(request, run_of, tmp_path):
    """Loads a policy for navigation-2d, from its run or from a file."""

    def load_one(name):
        run = run_of(name, "navigation-2d")
        if request.param == "torch":
            return metarl.load(run, threads=1)
        metarl.export(run, tmp_path / "p.onnx")
        return OnnxPolicy(tmp_path / "p.onnx")

    return load_one


def episode(session, length=5, array=None):
    """Plays an episode; with an array (S,) all observations are written into it."""
    rng, reward = np.random.default_rng(0), None
    for _ in range(length):
        obs = rng.standard_normal(2).astype(np.float32)
        if array is not None:
            array[:] = obs
        session.act(obs if array is None else array, reward)
        reward = float(rng.standard_normal())
    session.end_episode(reward)


def test_observations_may_be_written_into_one_array(load):
    policy, controls = load("maml-trpo"), []
    for array in (None, np.zeros(2, np.float32)):
        session = policy.start()
        episode(session, array=array)
        session.adapt()
        controls.append(session.act(np.ones(2)))
    np.testing.assert_array_equal(*controls)


def test_unusable_number_does_not_reach_the_memory(load):
    policy, array = load("rl2, gru"), np.ones(2, np.float32)
    session, other = policy.start(), policy.start()
    session.act(array), other.act(np.ones(2))
    array[0] = np.nan
    session.act(array, 0.5), other.act(np.ones(2), 0.5)
    np.testing.assert_array_equal(session.act(np.ones(2), 0.5), other.act(np.ones(2), 0.5))


def test_full_episode_ends_after_a_refused_step(load):
    policy = load("maml-trpo")
    session, other = policy.start(), policy.start()
    for each in (session, other):
        for t in range(policy.spec.horizon):
            each.act(np.full(2, 0.1 * t), -1.0 if t else None)
    with pytest.raises(ConfigError, match=r"the episode has 100 steps, as in training; call end_"):
        session.act(np.zeros(2), 3.0)
    session.end_episode(-1.0), other.end_episode(-1.0)
    session.adapt(), other.adapt()
    np.testing.assert_array_equal(session.act(np.ones(2)), other.act(np.ones(2)))


def test_refused_step_leaves_the_session_as_it_was(load):
    policy = load("rl2, gru")
    session, other = policy.start(), policy.start()
    session.act(np.ones(2)), other.act(np.ones(2))
    with pytest.raises(ConfigError, match="the reward of step 0 is missing"):
        session.act(np.array([np.inf, 2.0]))
    with pytest.raises(ConfigError, match="done"):
        session.act(np.array([np.inf, 2.0]), np.inf, [True, False])
    assert session.num_unusable == 0
    nothing = np.array([np.nan, 0.0])
    session.act(nothing, 0.5), other.act(nothing, 0.5)
    np.testing.assert_array_equal(session.act(np.ones(2), 0.5), other.act(np.ones(2), 0.5))


def test_episodes_without_noise_are_not_kept(load):
    session = load("maml-trpo").start()
    episode(session)
    session.adapt()
    for _ in range(3):
        episode(session)
    assert not session._pending
    with pytest.raises(ConfigError, match="no action noise to learn from"):
        session.adapt()


def test_session_that_never_adapts_keeps_the_newest_episodes(load):
    session = load("maml-trpo").start()
    for _ in range(MAX_PENDING):
        episode(session, length=2)
    third = session._pending[2]
    for _ in range(2):
        episode(session, length=2)
    assert len(session._pending) == MAX_PENDING and session._pending[0] is third
    session.adapt()
    assert not session._pending


@pytest.mark.parametrize("obs", [[[1.0, 2.0], [3.0]], [1.0, "x"]])
def test_observations_that_are_no_array_are_refused(load, obs):
    with pytest.raises(ConfigError, match="obs: must be numbers"):
        load("rl2, gru").start().act(obs)
