"""Exported policies against the sessions of their learners, step by step."""

import json
import warnings

import numpy as np
import pytest
import torch
from exported_play import largest_difference, made_up, roughen
from small_runs import EPISODE_RUNS, MORE_RUNS, RUNS, WITHOUT_GRAPH

import metarl
from metarl.core.errors import ConfigError
from metarl.deployment.onnx_file import OnnxFile
from metarl.deployment.onnx_policy import OnnxPolicy

ALL = RUNS | MORE_RUNS | EPISODE_RUNS


@pytest.fixture(scope="module")
def exported(run_of, tmp_path_factory):
    """Returns a policy with weights that its actions depend on strongly, and its file."""
    folder, done = tmp_path_factory.mktemp("exported"), {}

    def export(name, env="hopper-vel", form="onnx"):
        if (name, env) not in done:
            policy = metarl.load(run_of(name, env), threads=1)
            roughen(policy.learner, 0.1 if "hyper" in name else 0.3)
            done[name, env] = policy
        path = folder / f"{name} {env}.{form}"
        if not path.exists():
            limit = 1000 if "transformer" in name else 0
            metarl.export(done[name, env], path, format=form, max_steps=limit)
        return done[name, env], path

    yield export
    for policy in done.values():
        policy.close()


def sizes_of(name, policy):
    """Returns the steps of the episodes, and the robots.

    1,000 steps in two episodes; MAML refuses episodes longer than those of training, and policies
    that keep nothing may take several robots in a step.
    """
    if name in EPISODE_RUNS:
        return (200,), 0
    if name not in RUNS:
        return (60, 60), 0
    if policy.learner.pools_episodes:
        return (200,) * 5, 0
    return ((50, 50), 10) if name.startswith(("sb3-ppo", "sb3-trpo")) else ((500, 500), 0)


@pytest.mark.parametrize("name", ALL)
def test_onnx_policy_repeats_its_learner_for_1000_steps(exported, name):
    policy, path = exported(name)
    episodes, rows = sizes_of(name, policy)
    one, other = (
        each.start(num_robots=rows or 1, deterministic=True) for each in (policy, OnnxPolicy(path))
    )
    adapts = name.startswith(("pearl", "metric"))
    size = policy.spec.obs_size
    assert largest_difference(one, other, size, episodes, rows, adapts) < 1e-5


@pytest.mark.parametrize("name", WITHOUT_GRAPH)
def test_learner_without_a_graph_is_refused_in_one_line(run_of, tmp_path, name):
    with pytest.raises(ConfigError, match="^export: a learner .* has no graph; it plans"):
        metarl.export(run_of(name), tmp_path / "policy.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["rl2, gru", "metric"])
def test_graph_reads_rewards_in_the_unit_of_training(run_of, tmp_path, name):
    with metarl.load(run_of(name), threads=1) as policy:
        roughen(policy.learner, 0.3)
        unit = {"reward_unit": torch.tensor(30.0, dtype=torch.float64)}
        policy.learner.load_state_dict(policy.learner.state_dict() | unit)
        metarl.export(policy, tmp_path / "p.onnx")
        own = policy.start(deterministic=True)
        exported = OnnxPolicy(tmp_path / "p.onnx").start(deterministic=True)
        size, adapts = policy.spec.obs_size, name == "metric"
        assert largest_difference(own, exported, size, (50, 50), 0, adapts) < 1e-5


@pytest.mark.parametrize("name", ["rl2, gru", "rl2, transformer", "sb3-rl2"])
def test_output_varies_by_more_than_the_bound(exported, name):
    """So a constant policy would not pass."""
    session = OnnxPolicy(exported(name)[1]).start(raw=True)
    found = [session.act(obs, None if first else r) for obs, r, first, _ in made_up(11, (20,))]
    assert np.ptp(found, axis=0).min() > 0.05


@pytest.mark.parametrize("name", ["rl2, gru", "rl2, transformer"])
def test_graph_gives_the_controls_of_a_robot_with_a_centre(exported, name):
    """The output `controls` of the graph against the session, in the robot's units."""
    policy, path = exported(name, "quadruped-command")
    file = OnnxFile(path)
    states = json.loads(file.metadata["metarl"])["states"]
    session, last = policy.start(), 0.0
    kept = {state["input"]: np.zeros((1, *state["shape"]), np.float32) for state in states}
    for obs, reward, start, _ in made_up(policy.spec.obs_size, (50,)):
        feeds = {"obs": obs[None], "reward": np.full((1, 1), last, np.float32)}
        feeds |= {"done": np.zeros((1, 1), np.float32), **kept}
        controls, *after = file.run(feeds, ["controls", *(state["output"] for state in states)])
        kept = dict(zip(kept, after, strict=True))
        expected = session.act(obs, None if start else last)
        np.testing.assert_allclose(controls[0], expected, atol=1e-5)
        last = np.float32(reward)


@pytest.mark.parametrize("name", ALL)
def test_torchscript_repeats_onnx(exported, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.load(exported(name, form="torchscript")[1])
    file = OnnxFile(exported(name)[1])
    rng = np.random.default_rng(0)
    for rows in (1, 3):  # the batch is dynamic
        feeds = {
            n: rng.standard_normal((rows, *shape[1:])).astype(np.float32)
            for n, shape in file.inputs.items()
        }
        if "length" in feeds:
            feeds["length"][:] = 5.0
        for _ in range(20):
            with torch.no_grad():
                found = module(*(torch.from_numpy(value) for value in feeds.values()))
            expected = file.run(feeds, list(file.outputs))
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one.numpy(), other, atol=1e-5)
            after = dict(zip(file.outputs, expected, strict=True))
            feeds = {n: after.get(f"next_{n}", value) for n, value in feeds.items()}


def test_discrete_actions_are_indices(tmp_path):
    settings = {"learner": {"memory_size": 8}, "iterations": 2, "evaluate": False}
    sampler = {"num_tasks": 2, "num_episodes": 2, "threads": 1}
    policy = metarl.train(
        env="plugin_envs:Levers", algo="rl2", run_dir=tmp_path / "run", sampler=sampler, **settings
    )
    metarl.export(policy, tmp_path / "p.onnx")
    sessions = policy.start(), OnnxPolicy(tmp_path / "p.onnx").start()
    assert largest_difference(*sessions, policy.spec.obs_size, (50, 50)) == 0
    policy.close()


def test_several_robots_finish_their_episodes_apart(exported):
    """Robots that wait keep their memory; the next episode begins with their own last reward."""
    policy, path = exported("rl2, lstm")
    one, other = policy.start(2, 2), OnnxPolicy(path).start(2, 2)
    rng = np.random.default_rng(0)
    for length in (12, 9):
        reward = None
        for t in range(length):
            obs = rng.standard_normal((4, 11)).astype(np.float32)
            done = np.array([t == 4, t == 7, False, False]) & (length == 12)
            pair = [each.act(obs, reward, done) for each in (one, other)]
            np.testing.assert_allclose(*pair, atol=1e-5)
            reward = rng.standard_normal(4)
        one.end_episode(reward), other.end_episode(reward)
    assert other.num_episodes == 2


def test_full_memory_is_refused(run_of, tmp_path):
    with metarl.load(run_of("rl2, transformer"), threads=1) as policy:
        metarl.export(policy, tmp_path / "p.onnx", max_steps=3)
    session = OnnxPolicy(tmp_path / "p.onnx").start()
    for t in range(3):
        session.act(np.zeros(11), 0.0 if t else None)
    with pytest.raises(ConfigError, match="the memory is full after 3 steps; start a new session"):
        session.act(np.zeros(11), 0.0)


def test_transformer_keeps_a_trial_by_default(run_of, tmp_path):
    """Four episodes of 200 steps, as an evaluation plays."""
    with metarl.load(run_of("rl2, transformer"), threads=1) as policy:
        metarl.export(policy, tmp_path / "p.onnx")
        horizon = policy.spec.horizon
    assert OnnxPolicy(tmp_path / "p.onnx").facts.max_steps == 4 * horizon


def test_export_is_the_same_byte_for_byte(run_of, tmp_path):
    for name in ("rl2, gru", "maml-trpo"):
        contents = []
        for _ in range(2):
            paths = metarl.export(run_of(name), tmp_path / "p.onnx")
            contents.append([path.read_bytes() for path in paths])
        assert contents[0] == contents[1]
