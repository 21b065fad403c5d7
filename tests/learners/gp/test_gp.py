"""The Gaussian process over returns, and what the learner gives its policy."""

import numpy as np
import pytest
import torch
from whole_trial import trial

from metarl.core.env import UnsupportedHere
from metarl.core.errors import ConfigError
from metarl.core.rng import stream
from metarl.core.tasks import Uniform
from metarl.envs.registry import make
from metarl.learners.gp.config import GpConfig
from metarl.learners.gp.gp import Gp
from metarl.learners.gp.returns import Scale, Trials, choose_mean, choose_sample, predict
from metarl.sampling.sampler import Key

KERNEL = {
    "log_amplitude": torch.tensor(0.5),
    "log_length": torch.tensor([-0.3]),
    "log_noise": torch.tensor(-2.0),
}


def slow_posterior(latent, result, noise, queries):
    """Mean and covariance by the formula with an inverse; latents (M,), queries (Q,)."""

    def kernel(left, right):
        return np.exp(1.0) * np.exp(-0.5 * np.subtract.outer(left, right) ** 2 / np.exp(-0.6))

    inverse = np.linalg.inv(kernel(latent, latent) + np.diag(np.exp(-4.0) + noise))
    cross = kernel(queries, latent) @ inverse
    return cross @ result, kernel(queries, queries) - cross @ kernel(latent, queries)


def some_trials():
    latent = torch.tensor([[-1.0, 0.2, 0.9], [0.0, 0.5, 1.0]]).double().unsqueeze(-1)
    result = torch.tensor([[-50.0, -10.0, -30.0], [-5.0, -40.0, -20.0]]).double()
    noise = torch.tensor([[1e-6, 1e-6, 1e6], [1e-6, 1e-6, 1e-6]]).double()
    return Trials(latent, result, noise)


def test_posterior_of_the_return_is_the_formula():
    trials, queries = some_trials(), torch.linspace(-1.0, 1.0, 7).unsqueeze(-1)
    scale = Scale(torch.tensor(-25.0).double(), torch.tensor(15.0).double())
    kernel = {name: value.double() for name, value in KERNEL.items()}
    found = predict(kernel, scale, trials, queries.double())
    for n in range(2):
        result = (trials.result[n].numpy() + 25.0) / 15.0
        own = trials.latent[n, :, 0].numpy(), result, trials.noise[n].numpy()
        mean, covariance = slow_posterior(*own, queries[:, 0].double().numpy())
        np.testing.assert_allclose(found.mean[n], mean, atol=1e-8)
        np.testing.assert_allclose(found.covariance[n], covariance, atol=1e-8)


def test_unknown_return_hardly_counts():
    trials, queries = some_trials(), torch.zeros(1, 1)
    scale = Scale.of(trials)
    assert float(scale.mean) == pytest.approx(trials.result[trials.noise < 1].mean())
    other = Trials(trials.latent, trials.result.clone(), trials.noise)
    other.result[0, 2] = 0.0
    one, two = (predict(KERNEL, scale, each, queries).mean for each in (trials, other))
    assert torch.allclose(one, two, atol=1e-4)


def test_choices_are_the_largest_of_the_mean_and_of_samples():
    trials, queries = some_trials(), torch.linspace(-1.0, 1.0, 41).unsqueeze(-1)
    found = predict(KERNEL, Scale.of(trials), trials, queries)
    index = choose_mean(found, 3)
    assert index.shape == (2, 3)
    assert float(queries[index[0, 0]]) == pytest.approx(0.2, abs=0.35)  # the best of the first task
    assert torch.equal(index[:, 0], found.mean.argmax(dim=1))
    noise = torch.from_numpy(stream(0, "noise").standard_normal((2, 2000, 41)))
    drawn = choose_sample(found, noise)
    slow = np.random.default_rng(0).multivariate_normal(
        found.mean[1].numpy(), found.covariance[1].numpy(), 2000, check_valid="ignore"
    )
    share = (drawn[1] <= 20).double().mean()
    assert float(share) == pytest.approx((slow.argmax(axis=1) <= 20).mean(), abs=0.05)


def build(env="navigation-2d", **settings):
    spec = make(env, 1).spec
    config = GpConfig(hidden_size=8, num_candidates=6, **settings)
    return Gp(config, spec.obs_size, spec.action_size, tasks=spec.tasks, seed=0)


def learn(learner, iterations=1, tasks=6, episodes=4):
    env = make("navigation-2d", 1)
    for iteration in range(iterations):
        drawn = env.spec.tasks.sample(stream(0, "tasks", iteration), tasks)
        key = Key(0, "train", iteration)
        rollouts, context = trial(env, learner, drawn, episodes, 1, key, is_training=True)
        learner.update(context, rollouts, drawn)
    return drawn, rollouts, context


def test_policy_is_given_its_task_but_in_probes():
    learner = build(probe_every=5)
    tasks = np.array([[0.1, 0.2], [0.3, -0.4], [-0.5, 0.5]])
    own, context = tasks / 0.5, learner.begin_training(tasks, 4, ())
    probes = 0
    for row in range(12):
        task, given = row // 4, context.latent[row // 4, row % 4].numpy()
        is_own = np.allclose(given, own[task])
        assert is_own != (row % 5 == 4)
        if not is_own:  # the numbers of another task
            assert min(np.abs(given - other).max() for other in own) < 1e-6
            probes += 1
    assert probes == 2


def test_policy_does_not_learn_from_probes(monkeypatch):
    learner, seen = build(probe_every=3), []
    from metarl.learners import conditioned

    original = conditioned.train_policy

    def watched(state, policy, distribution, config, rollouts, latents, seed):
        seen.extend(zip(rollouts, latents, strict=True))
        return original(state, policy, distribution, config, rollouts, latents, seed)

    monkeypatch.setattr(conditioned, "train_policy", watched)
    tasks, played, _ = learn(learner)
    for k, (rollout, latent) in enumerate(seen):
        own = torch.from_numpy(tasks / 0.5).float().unsqueeze(1)
        is_given = torch.isclose(latent, own).all(dim=-1)
        assert torch.equal(rollout.valid.any(dim=2), is_given & played[k].valid.any(dim=2))
        assert not is_given.all() and is_given.any()


def test_candidates_are_the_last_training_tasks():
    learner = build()
    learn(learner, iterations=1, tasks=4)
    tasks, *_ = learn(learner, iterations=2, tasks=4)
    found = learner.state_dict()["candidates"].numpy()
    np.testing.assert_allclose(found[-4:], tasks / 0.5, atol=1e-6)
    assert len(found) == 6


def test_kernel_learns_lengths_of_returns():
    """Returns that vary with the first number alone: its length becomes the shorter one."""
    learner, rng = build(kernel_steps=300), np.random.default_rng(0)
    latent = torch.from_numpy(rng.uniform(-1, 1, (8, 12, 2)))
    result = (4.0 * latent[..., 0]).sin() * 20.0 - 50.0
    trials = Trials(latent, result, torch.zeros_like(result))
    learner._train_kernel(trials, latent[:, 0].float())
    first, second = learner.state_dict()["kernel/log_length"].exp().tolist()
    assert first < 0.7 and second > 2.0 * first


def test_adaptation_finds_the_best_candidate():
    learner, env = build(choice="mean"), make("navigation-2d", 1)
    learn(learner, iterations=2)
    tasks = env.spec.tasks.sample(stream(0, "tasks", 9), 2)
    rollouts, context = trial(env, learner, tasks, 4, 1, Key(0, "evaluate", 0))
    assert context.own is None and context.trials.result.shape == (2, 4)
    state = learner.state_dict()
    scale = Scale(state["return_mean"], state["return_deviation"])
    first = learner.begin(2, 4, ()).latent
    trials = Trials.empty(2, 2).append(first, rollouts[0])
    kernel = {n: state[f"kernel/{n}"] for n in KERNEL}
    best = predict(kernel, scale, trials, state["candidates"]).mean.argmax(dim=1)
    assert torch.equal(context.latent[:, 0], state["candidates"][best])
    with pytest.raises(ValueError, match="did not begin with begin_training"):
        learner.update(context, rollouts, tasks)


@pytest.mark.parametrize("every", [2, 5, 1000])
@pytest.mark.parametrize(("num_tasks", "num_episodes"), [(2, 1), (2, 2), (3, 1), (4, 2)])
def test_every_rollout_has_probes_of_other_tasks(num_tasks, num_episodes, every):
    """The kernel cannot learn how returns fall with the distance of tasks from anything else."""
    learner = Gp(
        GpConfig(probe_every=every), 2, 2, tasks=make("navigation-2d", 1).spec.tasks, seed=0
    )
    own = torch.arange(2.0 * num_tasks).view(num_tasks, 2)
    for k in range(3):
        latent, is_probe = learner._assign(own, num_episodes, k)
        assert is_probe.any() and not is_probe.all()
        given = (latent == own.unsqueeze(1)).all(dim=-1)
        assert torch.equal(given, ~is_probe)


def test_unfit_tasks_and_settings_are_refused():
    with pytest.raises(UnsupportedHere, match="the task has no numbers"):
        Gp(GpConfig(), 2, 1, tasks=Uniform(()), seed=0)
    with pytest.raises(ConfigError, match="learner.probe_every = 1: must be at least 2"):
        GpConfig(probe_every=1)
    with pytest.raises(ConfigError, match="learner.choice = 'x': must be thompson or mean"):
        GpConfig(choice="x")
