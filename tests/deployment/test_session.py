"""Sessions against trials of the sampler, bit for bit, and what a session refuses."""

import subprocess
import sys
from contextlib import closing

import gymnasium
import numpy as np
import pytest
import torch
from small_runs import EPISODE_RUNS, MORE_RUNS, RUNS, WITHOUT_GRAPH

import metarl
from metarl.core.env import supports
from metarl.core.errors import ConfigError
from metarl.core.learner import AdaptsWithoutNoise
from metarl.core.rollout import Action
from metarl.core.task_code import TaskCode
from metarl.deployment.session import Session
from metarl.envs.registry import make
from metarl.learners.registry import ALGORITHMS
from metarl.sampling.sampler import Collector, Key


def test_every_learner_has_a_run():
    every = RUNS | MORE_RUNS | EPISODE_RUNS | WITHOUT_GRAPH
    assert {name.partition(",")[0] for name in every} == set(ALGORITHMS)


@pytest.fixture(params=RUNS | EPISODE_RUNS | WITHOUT_GRAPH)
def policy(request, run_of):
    with metarl.load(run_of(request.param), threads=1) as loaded:
        yield loaded


KEY = Key(3, "evaluate", 0)


def sampled(policy, size, explore=True):
    """Plays the trial of the sampler; returns its two rollouts, copied, and the task."""
    env = policy.env
    task = env.spec.tasks.sample(np.random.default_rng(1), 1)
    with closing(Collector(env)) as collector:
        context = policy.learner.begin(1, size, KEY.tasks("begin", 0, 1))
        collector.set_tasks(task, size, whole=True)
        rollouts = []
        for k in range(2):
            found, context = collector.rollout(policy.learner, context, KEY, k, explore=explore)
            rollouts.append({name: value.clone() for name, value in vars(found).items()})
            context = policy.learner.adapt(context, found, KEY.tasks("adapt", k + 1, 1))
    return rollouts, task[0]


def observed(policy, obs, task):
    """The observation of a policy of mode oracle holds the task."""
    if policy.spec.obs_size == len(obs):
        return obs
    return np.append(obs, TaskCode(policy.spec.tasks).encode(task[None])[0])


def play(policy, session, env, task, rng):
    """A plain loop over a Gymnasium environment; returns actions and rewards."""
    env.unwrapped.np_random = rng
    obs, _ = env.reset(options={"task": task})
    reward, done, actions, rewards = None, False, [], []
    while not done:
        action = session.act(observed(policy, obs, task), reward)
        obs, reward, terminated, truncated, _ = env.step(action)
        done = terminated or truncated
        actions.append(action)
        rewards.append(reward)
    session.end_episode(reward, terminated, observed(policy, obs, task))
    return np.array(actions, dtype=np.float32), np.array(rewards, dtype=np.float32)


@pytest.mark.parametrize("deterministic", [False, True])
def test_session_repeats_the_sampler_bit_for_bit(policy, deterministic):
    learner = policy.learner
    if deterministic and learner.pools_episodes and not supports(learner, AdaptsWithoutNoise):
        pytest.skip("it adapts to actions with noise")
    rollouts, task = sampled(policy, 1, explore=not deterministic)
    env = gymnasium.make(f"metarl/{policy.config.env}", disable_env_checker=True)
    streams = {k: KEY.episodes(k, 1, 1) for k in range(3)}
    options = {"deterministic": deterministic, "raw": True}
    session = Session(policy.learner, policy.spec, streams=streams.get, key=KEY, **options)
    for k, rollout in enumerate(rollouts):
        actions, rewards = play(policy, session, env, task, streams[k][0])
        steps = int(rollout["valid"].sum())
        assert np.array_equal(rollout["action"][0, 0, :steps].numpy(), actions)
        assert np.array_equal(rollout["reward"][0, 0, :steps].numpy(), rewards)
        session.adapt()
    env.close()


@pytest.mark.parametrize(
    "name", ["maml-trpo", "rl2, gru", "pearl", "metric", *EPISODE_RUNS, *WITHOUT_GRAPH]
)
def test_session_of_several_robots_repeats_the_sampler(run_of, name):
    with metarl.load(run_of(name), threads=1) as policy:
        rollouts, task = sampled(policy, 2)
        streams = {k: KEY.episodes(k, 1, 2) for k in range(3)}
        session = Session(
            policy.learner, policy.spec, 1, 2, streams=streams.get, key=KEY, raw=True,
            deterministic=False,
        )  # fmt: skip
        env = make("hopper-vel", 1)
        env.set_tasks(task[None], 2)
        for k, rollout in enumerate(rollouts):
            obs, reward = env.reset(streams[k]).astype(np.float32), None
            alive, ended, t = np.ones(2, dtype=bool), np.zeros(2, dtype=bool), 0
            while alive.any() and t < policy.spec.horizon:
                action = session.act(obs, reward, ended)
                step = env.step(np.asarray(action), alive)
                assert np.array_equal(rollout["action"][0, alive, t].numpy(), action[alive])
                obs, reward = step.obs.astype(np.float32), step.reward
                ended = step.terminated.copy()
                alive, t = alive & ~ended, t + 1
            session.end_episode(reward, ended, obs)
            session.adapt()
        assert session.num_episodes == 2
        env.close()


def test_session_needs_neither_environment_nor_simulator(run_of):
    code = """
import sys, numpy as np, metarl
for run in sys.argv[1:]:
    policy = metarl.load(run)
    session, size = policy.start(), policy.spec.obs_size
    for reward in (None, 0.5, 0.5):
        assert session.act(np.zeros(size), reward).shape == (3,)
    policy.predict(np.zeros((2, size)))
assert "mujoco" not in sys.modules
"""
    runs = [str(run_of(name)) for name in RUNS | EPISODE_RUNS | WITHOUT_GRAPH]
    found = subprocess.run([sys.executable, "-c", code, *runs], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_controls_are_those_the_environment_sends(run_of):
    """Outputs of a quadruped against its simulation's controls, a centre and a range included."""
    with metarl.load(run_of("rl2, gru", "quadruped-command"), threads=1) as policy:
        env = policy.env
        env.set_tasks(np.zeros((1, 0)), 1)
        obs = env.reset([np.random.default_rng(0)])
        raw = policy.start(raw=True).act(obs[0])
        outputs = np.linspace(-6.0, 6.0, 12, dtype=np.float32)  # some beyond the range
        session = policy.start()
        session._learner = Constant(outputs)
        controls = session.act(obs[0])
        env.step(outputs[None], np.ones(1, dtype=bool))
        np.testing.assert_allclose(env._ctrl[0], controls, rtol=1e-14)
        assert raw.shape == (12,)


class Constant:
    """A learner that always chooses the same outputs."""

    pools_episodes = False

    def __init__(self, outputs):
        self.outputs = torch.tensor(outputs, dtype=torch.float32)

    def act(self, context, obs, noise, feedback=None, *, explore):
        value = self.outputs.expand(*obs.shape[:2], -1)
        return Action(value, torch.zeros(obs.shape[:2])), context


@pytest.fixture
def rl2(run_of):
    return metarl.load(run_of("rl2, gru"), threads=1)


def test_session_outlasts_the_horizon(rl2):
    """The memory after 250 steps and the end of the episode is that of a loop over `act`."""
    rng, session = np.random.default_rng(0), rl2.start(raw=True)
    obs, rewards = rng.standard_normal((250, 11)).astype(np.float32), rng.standard_normal(250)
    for t in range(250):
        session.act(obs[t], rewards[t] if t else None)
    session.end_episode(0.25)
    again = rl2.predict(obs[0], raw=True)
    for t in range(1, 250):
        again = rl2.predict(obs[t], again[1], reward=rewards[t], raw=True)
    last = rl2.predict(obs[0], again[1], [True], reward=0.25, raw=True)
    assert rl2.spec.horizon < 250
    np.testing.assert_array_equal(session.act(obs[0]), last[0])


def test_unusable_observation_gets_the_safe_control(rl2):
    session, other = rl2.start(), rl2.start()
    obs = np.ones(11)
    session.act(obs), other.act(obs)
    bad = obs.copy()
    bad[3] = np.nan
    assert session.act(bad, 0.1).tolist() == [0.0, 0.0, 0.0]
    assert other.act(obs, 0.1).tolist() != [0.0, 0.0, 0.0]
    np.testing.assert_array_equal(session.act(obs, 0.1), other.act(obs, 0.1))
    session.act(obs, np.inf)
    assert session.num_unusable == 2 and other.num_unusable == 0


def test_named_observation_is_put_in_order(rl2):
    names = [each.name for each in rl2.spec.observed]
    obs = dict(zip(names, np.linspace(-1, 1, 11), strict=True))
    backwards = dict(reversed(obs.items()))
    expected = rl2.start().act(np.linspace(-1, 1, 11))
    np.testing.assert_array_equal(rl2.start().act(backwards), expected)


def wrong(case, policy):
    session, obs = policy.start(), np.zeros(11)
    names = {each.name: 0.0 for each in policy.spec.observed}
    if case == "size":
        session.act(np.zeros(10))
    elif case == "text":
        session.act(["a"] * 11)
    elif case == "name":
        session.act({**names, "velocity of rootz": 0.0})
    elif case == "missing name":
        session.act(dict(list(names.items())[1:]))
    elif case == "named sizes":
        session.act({**names, next(iter(names)): [0.0, 1.0]})
    elif case == "named text":
        session.act({**names, next(iter(names)): "fast"})
    elif case == "no reward":
        session.act(obs), session.act(obs)
    elif case == "rewards":
        session.act(obs), session.act(obs, [0.0, 1.0])
    elif case == "no step":
        session.end_episode()
    elif case == "robots":
        policy.start(num_robots=0)
    elif case == "predicted reward":
        policy.predict(obs, policy.predict(obs)[1])
    elif case == "predicted robots":
        policy.predict(np.zeros((2, 11)), policy.predict(obs)[1], reward=0.0)
    elif case == "predicted lengths":
        policy.predict([[0.0, 1.0], [2.0]])
    elif case == "predicted nan":
        policy.predict(obs * np.nan)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("size", r"obs has the shape \(10,\): must be \(1, 11\) or \(11,\): .*, \.\.\., "),
        ("text", "obs: must be numbers"),
        ("name", r"obs: unknown number 'velocity of rootz'.*"),
        ("missing name", r"obs: '.*' is missing; policy.spec.observed has all"),
        ("named sizes", "obs: must be numbers"),
        ("named text", "obs: must be numbers"),
        ("no reward", "the reward of step 0 is missing"),
        ("rewards", r"reward has the shape \(2,\): must be \(1,\)"),
        ("no step", "end_episode: the episode has no step"),
        ("robots", "num_robots = 0: must be at least 1"),
        ("predicted reward", "reward is missing: the policy reads it"),
        ("predicted robots", "state has 1 robots and obs 2"),
        ("predicted lengths", "obs: must be numbers"),
        ("predicted nan", "obs: must be finite"),
    ],
)
def test_session_refuses_what_does_not_fit(rl2, case, message):
    with pytest.raises(ConfigError, match=message):
        wrong(case, rl2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_tasks": 1.5}, "num_tasks = 1.5: must be a whole number"),
        ({"num_tasks": "2"}, "num_tasks = '2': must be a whole number"),
        ({"num_robots": 10**9}, "num_robots = 1000000000: must be at most 1,000,000"),
        ({"seed": 1.5}, "seed = 1.5: must be a whole number"),
        ({"seed": -1}, "seed = -1: must be at least 0"),
    ],
)
def test_session_refuses_what_is_no_count(rl2, options, message):
    with pytest.raises(ConfigError, match=message):
        rl2.start(**options)


@pytest.mark.parametrize("value", [1e39, 10**400])
def test_session_takes_numbers_beyond_float32(rl2, value):
    """They warned, or ended with a traceback."""
    session, names = rl2.start(), [each.name for each in rl2.spec.observed]
    obs = [0.0] * 11
    session.act(obs)
    for large in ([value, *obs[1:]], dict(zip(names, [value, *obs[1:]], strict=True))):
        if value < 1e300:
            assert (session.act(large, value) == 0.0).all()
        else:
            with pytest.raises(ConfigError, match="obs: must be numbers"):
                session.act(large, 1.0)
    assert session.num_unusable == (4 if value < 1e300 else 0)


def test_maml_session_refuses_to_adapt_to_nothing(run_of):
    policy = metarl.load(run_of("maml-trpo"), threads=1)
    session = policy.start()
    with pytest.raises(ConfigError, match="there is no finished episode"):
        session.adapt()
    still = policy.start(deterministic=True)
    still.act(np.zeros(11))
    still.end_episode(1.0)
    with pytest.raises(ConfigError, match="no action noise to learn from"):
        still.adapt()
    for t in range(policy.spec.horizon):
        session.act(np.zeros(11), 0.0 if t else None)
    with pytest.raises(ConfigError, match=r"the episode has \d+ steps, as in training"):
        session.act(np.zeros(11), 0.0)


def test_maml_session_sends_the_mode_once_adapted(run_of):
    session = metarl.load(run_of("maml-trpo"), threads=1).start()
    first = session.act(np.zeros(11)), session.act(np.zeros(11), 1.0)
    session.end_episode(0.5)
    session.adapt()
    later = session.act(np.zeros(11)), session.act(np.zeros(11), 1.0)
    assert not np.array_equal(*first) and np.array_equal(*later)


def test_maml_session_adapts_to_the_newest_episodes(run_of, monkeypatch):
    """One that never adapts keeps no more of them; the older ones change nothing."""
    monkeypatch.setattr("metarl.deployment.session.MAX_PENDING", 2)
    policy, controls = metarl.load(run_of("maml-trpo"), threads=1), []
    for skipped in (0, 3):
        noise = iter(range(3 - skipped, 100))  # the last two episodes have the same noise
        session = policy.start(deterministic=None)
        session._streams = lambda k, noise=noise: [np.random.default_rng(next(noise))]
        session._rngs = session._streams(0)
        for episode in range(skipped + 2):
            session.act(np.ones(11))
            session.end_episode(float(episode - skipped))
        session.adapt()
        controls.append(session.act(np.ones(11)))
    np.testing.assert_array_equal(*controls)


@pytest.mark.parametrize(
    "name", ["rl2, gru", "rl2, transformer", "teacher-student", "varibad", "grbal"]
)
def test_prediction_equals_sessions_whose_episodes_start_apart(run_of, name):
    policy = metarl.load(run_of(name), threads=1)
    rng = np.random.default_rng(0)
    obs, rewards = rng.standard_normal((6, 3, 11)), rng.standard_normal((6, 3))
    starts = np.array([[1, 1, 1], [0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]], bool)
    sessions, state = [policy.start() for _ in range(3)], None
    for t in range(6):
        controls, state = policy.predict(obs[t], state, starts[t], reward=rewards[t])
        for row, session in enumerate(sessions):
            reward = rewards[t, row] if t else None
            if t and starts[t, row]:
                session.end_episode(reward)
                reward = None
            np.testing.assert_allclose(session.act(obs[t, row], reward), controls[row], atol=1e-6)


@pytest.mark.parametrize("name", ["rl2, gru", "rl2, transformer", "grbal"])
def test_prediction_may_be_continued_twice_from_one_state(run_of, name):
    """The second branch does not see the first, whose memory might write in place."""
    policy, rng = metarl.load(run_of(name), threads=1), np.random.default_rng(1)
    obs, state = rng.standard_normal((6, 11)), None
    for t in range(3):
        _, state = policy.predict(obs[t], state, reward=0.5)
    _, left = policy.predict(obs[3], state, reward=0.5)
    expected = policy.predict(obs[5], left, reward=0.0)[0]
    policy.predict(obs[4], state, reward=-2.0)
    np.testing.assert_array_equal(policy.predict(obs[5], left, reward=0.0)[0], expected)


def test_prediction_of_sb3_policy_is_that_of_sb3(run_of):
    policy = metarl.load(run_of("sb3-ppo"), threads=1)
    obs = np.random.default_rng(0).standard_normal((4, 11)).astype(np.float32)
    member = policy.learner._members[0]
    expected, _ = member.model.predict(member.normalize(obs), deterministic=True)
    controls, state = policy.predict(obs)
    np.testing.assert_allclose(controls, expected.clip(-1, 1), atol=1e-6)
    assert state.num_steps == 1
