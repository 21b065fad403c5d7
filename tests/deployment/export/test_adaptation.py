"""The graph of MAML's adaptation step against `Maml.adapt`, and adapted exports."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from exported_play import largest_difference, made_up, roughen

import metarl
from metarl.core.errors import CheckpointError, ConfigError, NumericalError
from metarl.core.rollout import Rollout
from metarl.deployment.advantages import advantages
from metarl.deployment.export.adaptation import build_adaptation
from metarl.deployment.export.onnx_graph import to_onnx
from metarl.deployment.export.write import export_policy
from metarl.deployment.onnx_file import OnnxFile
from metarl.deployment.onnx_policy import OnnxPolicy
from metarl.functional import advantages as with_torch
from metarl.learners.maml.config import MamlConfig
from metarl.learners.maml.inner_loop import RATE
from metarl.learners.maml.maml import Maml
from metarl.sampling.sampler import Collector, Key

T, S, A = 30, 4, 2


def rollout(seed, episodes=3, cut=False, horizon=T):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, horizon + 1, episodes)
    valid = np.arange(horizon) < lengths[:, None]
    truncated = np.array([cut, *[False] * (episodes - 1)])
    arrays = {
        "obs": rng.standard_normal((episodes, horizon, S)).astype(np.float32),
        "action": rng.standard_normal((episodes, horizon, A)).astype(np.float32),
        "log_prob": np.zeros((episodes, horizon), np.float32),
        "reward": rng.standard_normal((episodes, horizon)).astype(np.float32),
        "valid": valid,
        "terminated": np.zeros(episodes, bool),
        "truncated": truncated & (lengths < horizon),
        "last_obs": np.zeros((episodes, S), np.float32),
    }
    return Rollout(**{name: torch.from_numpy(value)[None] for name, value in arrays.items()})


@pytest.mark.parametrize(("cut", "horizon"), [(False, T), (True, T), (False, 600)])
def test_advantages_are_those_of_torch(cut, horizon):
    played = rollout(0, cut=cut, horizon=horizon)
    parts = (played.obs, played.reward, played.valid, played.truncated)
    found = advantages(*(part[0].numpy() for part in parts), 0.97, 0.9)
    expected, _ = with_torch.advantages(played, 0.97, 0.9)
    np.testing.assert_allclose(found, expected[0].numpy(), atol=1e-6)


def test_constant_advantages_become_zero():
    """Rewards that the baseline predicts exactly leave nothing to learn from."""
    obs, valid = np.zeros((2, 5, 1), np.float32), np.ones((2, 5), bool)
    found = advantages(obs, np.zeros((2, 5)), valid, np.zeros(2, bool), 0.99, 1.0)
    np.testing.assert_array_equal(found, 0.0)


@pytest.fixture
def maml(run_of, tmp_path):
    """A policy of MAML and its exported form."""
    with metarl.load(run_of("maml-trpo"), threads=1) as policy:
        metarl.export(policy, tmp_path / "p.onnx")
        yield policy, OnnxPolicy(tmp_path / "p.onnx")


@pytest.mark.parametrize(
    ("name", "surrogate"),
    [
        *(("maml-trpo", surrogate) for surrogate in ("lvc", "loglik", "dice")),
        ("anil", "lvc"),
        ("meta-sgd", "lvc"),
    ],
)
def test_adaptation_graph_takes_the_step_of_the_learner(name, surrogate, run_of, tmp_path):
    """Two steps from the same transitions; the first at theta_0, the second at theta_1."""
    with metarl.load(run_of(name), threads=1) as policy:
        learner = policy.learner
        learner.config = replace(learner.config, surrogate=surrogate, later_lr=0.7)
        for each, value in learner.params.items():
            if each.startswith(RATE):  # two updates hardly change them
                value *= torch.linspace(0.5, 2.0, value.numel()).view_as(value)
        metarl.export(policy, tmp_path / "p.onnx")
        exported, rng = OnnxPolicy(tmp_path / "p.onnx"), np.random.default_rng(3)
        horizon, size = policy.spec.horizon, policy.spec.obs_size
        context, weights = learner.begin(1, 2, []), {}
        for k in range(2):
            played = play(learner, context, rng, horizon, size)
            parts = {n: vars(played)[n][0].numpy() for n in ("obs", "action", "reward", "valid")}
            weights = exported.adapt(weights, k, **parts)
            context = learner.adapt(context, played, [])
            assert set(weights) == set(context.params)
            for each, value in context.params.items():
                change = np.abs(value[0].numpy() - learner.params[each].numpy()).max()
                difference = np.abs(weights[each] - value[0].numpy()).max()
                assert difference < 1e-5 and difference <= 1e-3 * change, each


def play(learner, context, rng, horizon, size):
    """Returns a rollout of two episodes whose actions are the policy's own."""
    shape = (1, 2, horizon)
    obs = torch.from_numpy(rng.standard_normal((*shape, size)).astype(np.float32))
    noise = torch.from_numpy(rng.standard_normal((*shape, 3)).astype(np.float32))
    chosen = [
        learner.act(context, obs[:, :, t], noise[:, :, t], explore=True)[0] for t in range(horizon)
    ]
    no = torch.zeros(1, 2, dtype=torch.bool)
    return Rollout(
        obs=obs,
        action=torch.stack([each.value for each in chosen], dim=2),
        log_prob=torch.stack([each.log_prob for each in chosen], dim=2),
        reward=torch.from_numpy(rng.standard_normal(shape).astype(np.float32)),
        valid=torch.ones(shape, dtype=torch.bool),
        terminated=no,
        truncated=no,
        last_obs=obs[:, :, -1],
    )


def test_bound_of_the_noise_has_no_gradient(tmp_path):
    """log_std below its bound acts as the bound, as in the learner."""
    config = MamlConfig(hidden_sizes=(4,), min_log_std=-1.0)
    learner = Maml(config, S, A, seed=0)
    path = tmp_path / "a.onnx"
    path.write_bytes(to_onnx(build_adaptation(learner), {}))
    low = np.array([-2.0, -0.5], np.float32)
    rng = np.random.default_rng(0)
    feeds = {"obs": rng.standard_normal((9, S)), "action": rng.standard_normal((9, A))}
    feeds |= {"advantage": rng.standard_normal((9, 1)), "step_size": np.ones(1), "log_std": low}
    feeds = {name: np.float32(value) for name, value in feeds.items()}
    (after,) = OnnxFile(path).run(feeds, ["next_log_std"])
    assert after[0] == -1.0 and after[1] != -0.5


def test_session_adapts_like_that_of_the_learner(maml):
    """Same noise, same episodes, two robots of two tasks: the same controls before and after."""
    policy, exported = maml
    options = {"seed": 5, "deterministic": False}
    one, other = policy.start(2, 2, **options), exported.start(2, 2, **options)
    rng = np.random.default_rng(0)
    for k in range(3):
        for length in (40, 25):
            reward = None
            for t in range(length):
                obs = rng.standard_normal((4, 11)).astype(np.float32)
                done = np.array([t == 9, False, False, False])
                pair = [each.act(obs, reward, done) for each in (one, other)]
                np.testing.assert_allclose(*pair, atol=1e-5)
                reward = rng.standard_normal(4)
            one.end_episode(reward), other.end_episode(reward)
        one.adapt(), other.adapt()
        assert other.num_adaptations == k + 1


def test_adaptation_graph_of_another_policy_is_refused(maml, tmp_path):
    """Of the same sizes, after other training; the session is unchanged."""
    policy, exported = maml
    (tmp_path / "other").mkdir()
    export_policy(replace(policy.origin(), iteration=99), tmp_path / "other" / "p.onnx")
    name = "p.adaptation.onnx"
    (tmp_path / name).write_bytes((tmp_path / "other" / name).read_bytes())
    session = exported.start()
    session.act(np.zeros(11)), session.end_episode(0.0)
    message = r"p.adaptation.onnx adapts another policy than .*p.onnx: the two files of one"
    with pytest.raises(CheckpointError, match=message):
        session.adapt()
    assert session.num_adaptations == 0


def test_session_sends_the_mode_once_adapted(maml):
    session = maml[1].start()
    for t in range(2):
        session.act(np.ones(11), 0.5 if t else None)
    session.end_episode(0.5)
    assert not session.deterministic
    session.adapt()
    later = session.act(np.zeros(11)), session.act(np.zeros(11), 1.0)
    assert np.array_equal(*later)


@pytest.mark.parametrize("name", ["maml-trpo", "bmaml", "gp"])
def test_adapted_session_is_exported(name, run_of, tmp_path):
    """The file of bmaml and gp plays the next episode; the one after has another policy."""
    with metarl.load(run_of(name), threads=1) as policy:
        roughen(policy.learner)
        session = policy.start()
        last = None
        for obs, reward, first, _ in made_up(11, (60,)):
            session.act(obs, None if first else last)
            last = reward
        session.end_episode(last)
        session.adapt()
        (path,) = session.export(tmp_path / "adapted.onnx")
        exported = OnnxPolicy(path)
        assert exported.facts.adaptations == 1
        other = exported.start()
        episodes = (100, 100) if name == "maml-trpo" else (100,)
        assert largest_difference(session, other, 11, episodes) < 1e-5
        before = policy.start(deterministic=True)
        assert largest_difference(before, exported.start(), 11, (50,)) > 1e-5
        if name == "maml-trpo":
            with pytest.raises(ConfigError, match="the policy was adapted before its export"):
                other.adapt()


@pytest.mark.parametrize("name", ["maml-trpo", "bmaml", "gp"])
def test_policy_is_adapted_to_a_task_of_the_environment(name, run_of, tmp_path):
    with metarl.load(run_of(name), threads=1) as policy:
        roughen(policy.learner)
        (path,) = metarl.export(policy, tmp_path / "p.onnx", adapt=[1.0], num_adaptations=2)
        learner, size = policy.learner, policy.config.sampler.num_episodes
        with closing(Collector(policy.env)) as collector:
            key = Key(policy.config.seed, "export", 0)
            _, context = collector.trial(learner, np.array([[1.0]]), size, 2, key)
        obs = torch.linspace(-1, 1, 11).expand(1, size, 11)  # of all episodes
        expected, _ = learner.act(context, obs, torch.zeros(1, size, 3), explore=False)
        found = OnnxPolicy(path).start(raw=True).act(obs[0, 0].numpy())
        np.testing.assert_allclose(found, expected.value[0, 0].detach(), atol=1e-5)


def refuse(case, policy, exported, folder):
    session = exported.start()
    if case == "nothing":
        session.adapt()
    elif case == "still":
        session = exported.start(deterministic=True)
        session.act(np.zeros(11)), session.end_episode(0.0), session.adapt()
    elif case == "missing graph":
        (folder / "p.adaptation.onnx").unlink()
        session.act(np.zeros(11)), session.end_episode(0.0), session.adapt()
    elif case == "horizon":
        for t in range(policy.spec.horizon + 1):
            session.act(np.zeros(11), 0.0 if t else None)
    elif case == "export before":
        policy.start().export(folder / "x.onnx")
    elif case == "task":
        metarl.export(policy, folder / "x.onnx", adapt=[1.0, 2.0])
    elif case == "adaptations":
        metarl.export(policy, folder / "x.onnx", num_adaptations=2)
    elif case == "part of one":
        metarl.export(policy, folder / "x.onnx", adapt=[1.0], num_adaptations=1.5)


@pytest.mark.parametrize(
    ("case", "error", "message"),
    [
        ("nothing", ConfigError, "there is no finished episode"),
        ("still", ConfigError, "no action noise to learn from"),
        ("missing graph", CheckpointError, "p.adaptation.onnx is not beside it"),
        ("horizon", ConfigError, r"the episode has \d+ steps, as in training"),
        ("export before", ConfigError, "the session has no adapted weights"),
        ("task", ConfigError, "is 1 finite numbers: speed"),
        ("adaptations", ConfigError, "--num-adaptations = 2: must be left out without --adapt"),
        ("part of one", ConfigError, "--num-adaptations = 1.5: must be a whole number"),
    ],
)
def test_adaptation_refuses_what_does_not_fit(maml, tmp_path, case, error, message):
    with pytest.raises(error, match=message):
        refuse(case, *maml, tmp_path)


def test_weights_that_are_not_finite_leave_the_session_as_it_was(maml):
    _, exported = maml
    session = exported.start()
    session.act(np.zeros(11)), session.act(np.zeros(11), 1.0)
    session.end_episode(0.0)
    session._weights = [{"weight0": np.full_like(shape_of(exported), np.inf)}]
    with pytest.raises(NumericalError, match="session: task 0: .* is not finite"):
        session.adapt()
    assert session.num_adaptations == 0


def shape_of(exported):
    rng = np.random.default_rng(0)
    obs = rng.standard_normal((1, 5, 11)).astype(np.float32)
    action, reward = np.ones((1, 5, 3), np.float32), rng.standard_normal((1, 5))
    return exported.adapt({}, 0, obs, action, reward, np.ones((1, 5), bool))["weight0"]


def test_memory_is_not_adapted_by_gradients(run_of, tmp_path):
    with metarl.load(run_of("rl2, gru"), threads=1) as policy:
        with pytest.raises(ConfigError, match="rl2 has no weights that it adapts; leave --adapt"):
            metarl.export(policy, tmp_path / "p.onnx", adapt=[1.0])
        metarl.export(policy, tmp_path / "p.onnx")
    OnnxPolicy(tmp_path / "p.onnx").start().adapt()  # nothing to do
    with pytest.raises(ConfigError, match="the file has the mode of the policy alone"):
        OnnxPolicy(tmp_path / "p.onnx").start(deterministic=False)
