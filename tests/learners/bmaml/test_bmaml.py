"""Particles of policies: their episodes, Stein steps and chaser loss against slow ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from whole_trial import trial

from metarl.core.errors import ConfigError
from metarl.core.rng import stream
from metarl.core.rollout import Rollout
from metarl.envs.registry import make
from metarl.functional.ppo import clipped_loss
from metarl.functional.stein import stein_direction, to_rows
from metarl.learners.bmaml.bmaml import Bmaml
from metarl.learners.bmaml.config import BmamlConfig
from metarl.learners.bmaml.particles import divide, divide_batch, gather, repeat_particles
from metarl.learners.maml.config import MamlConfig
from metarl.learners.maml.maml import Maml
from metarl.learners.maml.surrogates import Batch, surrogate_loss
from metarl.sampling.sampler import Key

TASKS, EPISODES = 2, 5


def build(**settings):
    given = {"hidden_sizes": (5,), "num_particles": 3, "initial_log_std": -1.0} | settings
    return Bmaml(BmamlConfig(**given), 2, 2, seed=1)


def play(learner, adaptations=1):
    env = make("navigation-2d", 1)
    tasks = env.spec.tasks.sample(stream(0, "tasks", 0), TASKS)
    return *trial(env, learner, tasks, EPISODES, adaptations, Key(0, "train", 0)), tasks


def doubled(batch):
    return Batch(*(value.double() for value in vars(batch).values()))


def test_episodes_are_divided_and_gathered():
    values = torch.arange(2 * 5 * 3).view(2, 5, 3)
    divided = divide(values, 3)
    assert divided.shape == (6, 2, 3)
    for task, particle, turn in np.ndindex(2, 3, 2):
        episode = turn * 3 + particle
        own = values[task, episode] if episode < 5 else torch.zeros(3, dtype=values.dtype)
        assert torch.equal(divided[task * 3 + particle, turn], own)
    assert torch.equal(gather(divided, 3, 5), values)


def test_episode_is_played_by_its_particle():
    learner = build()
    obs, noise = torch.randn(2, TASKS, EPISODES, 2, generator=torch.Generator().manual_seed(0))
    action, _ = learner.act(learner.begin(TASKS, EPISODES, ()), obs, noise, explore=True)
    policy, params = learner._particles.policy, learner._state.network.params()
    for task, episode in np.ndindex(TASKS, EPISODES):
        own = {n: v[episode % 3].unsqueeze(0) for n, v in params.items()}
        output = policy.network.outputs(own, obs[task, episode].view(1, 1, 2))
        value, log_prob = policy.distribution.sample(
            own, output, noise[task, episode].view(1, 1, 2)
        )
        torch.testing.assert_close(action.value[task, episode], value[0, 0])
        torch.testing.assert_close(action.log_prob[task, episode], log_prob[0, 0])


def slow_direction(learner, point, batch, loss):
    """The Stein direction with gradients by autograd, particle by particle."""
    policy, rows = learner._particles.policy, []
    for row in range(len(batch.obs)):
        own = {n: v[row : row + 1].detach().clone().requires_grad_() for n, v in point.items()}
        obs, action = batch.obs[row].flatten(0, 1), batch.action[row].flatten(0, 1)
        output = policy.network.outputs(own, obs.unsqueeze(0))
        log_prob = policy.distribution.log_prob(own, output, action.unsqueeze(0))
        value = loss(log_prob.view(1, *batch.valid.shape[1:]), row)
        rows.append(
            torch.cat([g.flatten() for g in torch.autograd.grad(value, list(own.values()))])
        )
    gradient = torch.stack(rows).view(TASKS, 3, -1)
    return stein_direction(to_rows(point, 3), gradient, 1.0 / learner.config.repulsion)


def part(batch, row):
    return Batch(*(value[row : row + 1] for value in vars(batch).values()))


def test_step_equals_autograd_particle_by_particle():
    learner = build(repulsion=0.1)
    _, context, _ = play(learner)
    batch = doubled(context.batches[0])
    start = repeat_particles(learner._state.network.params(), TASKS)
    start = {n: v.double() for n, v in start.items()}
    found = learner._particles.step(start, batch)
    rows = slow_direction(
        learner, start, batch, lambda lp, row: surrogate_loss("lvc", lp, part(batch, row)).sum()
    )
    expected = to_rows(start, 3) + 0.2 * rows
    torch.testing.assert_close(to_rows(found, 3), expected, rtol=1e-6, atol=1e-8)


def test_ascent_is_the_direction_after_adaptation():
    """Away from the particles that sampled, where ratios are not 1."""
    learner = build(repulsion=0.1)
    rollouts, context, _ = play(learner)
    last, _ = learner._batch(rollouts[-1])
    batches = [doubled(each) for each in (*context.batches, last)]
    moved = {n: v.double() * 1.05 for n, v in learner._state.network.params().items()}
    found = learner._particles.ascent(moved, batches)
    point = learner._particles.step(repeat_particles(moved, TASKS), batches[0])

    def loss(log_prob, row):
        own = part(batches[1], row)
        each = clipped_loss(log_prob - own.log_prob, own.advantage, learner.config.clip)
        return (each * own.weight).sum()

    rows = slow_direction(learner, point, batches[1], loss).mean(dim=0)
    torch.testing.assert_close(to_rows(found, 3)[0], rows, rtol=1e-6, atol=1e-8)


def test_one_particle_adapts_as_maml():
    settings = {"hidden_sizes": (5,), "inner_lr": 0.3, "initial_log_std": -1.0}
    learner = Bmaml(BmamlConfig(num_particles=1, **settings), 2, 2, seed=0)
    maml = Maml(MamlConfig(gae_lambda=1.0, **settings), 2, 2, seed=0)
    maml.params = {n: v[0] for n, v in learner._state.network.params().items()}
    rollouts, *_ = play(maml)
    context = learner.adapt(learner.begin(TASKS, EPISODES, ()), rollouts[0], ())
    expected = maml.adapt(maml.begin(TASKS, EPISODES, ()), rollouts[0], ()).params
    for name, value in expected.items():
        torch.testing.assert_close(context.params[name][:, 0], value)


def test_particle_without_a_step_follows_the_others():
    """One robot plays the first particle alone; its gradient moves the others too."""
    learner = build(repulsion=1e-12)
    rollouts, *_ = play(learner)
    one = Rollout(*(value[:, :1] for value in vars(rollouts[0]).values()))
    batch, _ = learner._batch(one)
    assert batch.weight.view(TASKS, 3, -1).sum(dim=2).tolist() == [[1, 0, 0], [1, 0, 0]]
    context = learner.begin(TASKS, 1, ())
    after = learner.adapt(context, one, ())
    change = {n: after.params[n] - context.params[n] for n in context.params}
    assert all(value.isfinite().all() for value in change.values())
    assert change["weight1"].flatten(2).abs().amax(dim=2).min() > 0.0


def test_weights_add_up_to_one_for_each_particle():
    learner = build()
    _, context, _ = play(learner)
    sums = context.batches[0].weight.sum(dim=(1, 2))
    torch.testing.assert_close(sums, torch.ones_like(sums))
    whole = replace(context.batches[0])
    assert divide_batch(whole, 1).obs.shape == whole.obs.shape


@pytest.mark.parametrize(("task", "particle"), [(0, 2), (1, 1)])
def test_error_names_task_and_particle(task, particle):
    learner = build()
    rollouts, _, _ = play(learner)
    log_prob = rollouts[0].log_prob.clone()
    log_prob[task, particle] = -1e5  # an infinite ratio
    message = f"^task {task}, particle {particle}: the gradient of '\\w+' is not finite"
    with pytest.raises(FloatingPointError, match=message):
        context = learner.begin(TASKS, EPISODES, ())
        learner.adapt(context, replace(rollouts[0], log_prob=log_prob), ())


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="learner.num_particles = 0: must be at least 1"):
        BmamlConfig(num_particles=0)
    with pytest.raises(ConfigError, match="learner.repulsion = 0.0: must be a finite number > 0"):
        BmamlConfig(repulsion=0.0)
