"""Guesses of PEARL: adapting to rollouts and steps, acting on them, and slices of tasks."""

import dataclasses

import numpy as np
import pytest
import torch
from pearl_cases import SMALL, learner, make_rollout, streams
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import AffineTransform, TanhTransform

from metarl.core.rollout import Feedback, Rollout
from metarl.learners.pearl.context import PearlContext


def test_adapt_multiplies_the_factors_of_all_valid_transitions():
    """Against a loop over the transitions of two rollouts."""
    pearl, rollouts = learner(), [make_rollout(seed) for seed in (0, 1)]
    context = pearl.begin(3, 2, streams(3, "begin"))
    for rollout in rollouts:
        context = pearl.adapt(context, rollout, streams(3))
    params = {name: value.detach() for name, value in pearl.params.items()}
    for task in range(3):
        precision, weighted = torch.ones(3), torch.zeros(3)
        for rollout in rollouts:
            for episode in range(2):
                count = int(rollout.valid[task, episode].sum())
                ends = [*rollout.obs[task, episode, :count], rollout.last_obs[task, episode]]
                for step in range(count):
                    action = rollout.action[task, episode, step] / 0.1
                    reward = rollout.reward[task, episode, step].view(1)
                    x = torch.cat([ends[step], action, reward, ends[step + 1]])
                    x = (params["encoder/0/weight"] @ x + params["encoder/0/bias"]).relu()
                    x = params["encoder/1/weight"] @ x + params["encoder/1/bias"]
                    own = torch.nn.functional.softplus(x[3:])
                    precision, weighted = precision + own, weighted + own * x[:3]
        torch.testing.assert_close(context.posterior.precision[task], precision)
        torch.testing.assert_close(context.posterior.mean[task], weighted / precision)


def test_each_episode_acts_on_its_own_sample_of_the_guess():
    pearl, rollout = learner(), make_rollout(0)
    context = pearl.begin(3, 2, streams(3, "begin"))
    for task, rng in enumerate(streams(3, "begin")):
        drawn = torch.from_numpy(rng.standard_normal((2, 3), np.float32))
        assert torch.equal(context.read(explore=True)[task], drawn)  # of the prior
    context = pearl.adapt(context, rollout, streams(3))
    mean, std = context.posterior.mean, context.posterior.precision.rsqrt()
    for task, rng in enumerate(streams(3)):
        drawn = torch.from_numpy(rng.standard_normal((2, 3), np.float32))
        latent = context.read(explore=True)
        torch.testing.assert_close(latent[task], mean[task] + std[task] * drawn)
    assert not torch.equal(latent[:, 0], latent[:, 1])


def test_experience_of_one_task_does_not_reach_another():
    pearl, rollout = learner(), make_rollout(0)
    changed = dataclasses.replace(rollout, reward=rollout.reward.clone())
    changed.reward[1] += 1.0
    contexts = [
        pearl.adapt(pearl.begin(3, 2, streams(3)), each, streams(3)) for each in (rollout, changed)
    ]
    latents = [context.read(explore=True) for context in contexts]
    same = (latents[0] == latents[1]).flatten(1).all(dim=1)
    assert same.tolist() == [True, False, True]


def test_log_prob_of_an_action_is_its_density():
    pearl, obs = learner(), torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(1))
    context = pearl.begin(3, 2, streams(3))
    with torch.inference_mode():
        action, _ = pearl.act(context, obs, noise, explore=True)
        mean, log_std = pearl.networks.policy(pearl.params, obs, context.read(explore=True))
    to_limit = [TanhTransform(), AffineTransform(0.0, 0.1)]
    expected = TransformedDistribution(Normal(mean, log_std.exp()), to_limit)
    torch.testing.assert_close(action.log_prob, expected.log_prob(action.value).sum(dim=-1))
    assert action.value.abs().max() < 0.1


def test_without_exploration_the_mean_of_the_guess_acts():
    pearl, obs = learner(), torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0))
    context = pearl.adapt(pearl.begin(3, 2, streams(3)), make_rollout(0), streams(3))
    with torch.inference_mode():
        action, _ = pearl.act(context, obs, obs, explore=False)
        for task in range(3):
            latent = context.posterior.mean[task].expand(2, -1)
            mean, _ = pearl.networks.policy(pearl.params, obs[task], latent)
            torch.testing.assert_close(action.value[task], 0.1 * mean.tanh())


def play(pearl, rollout, *, explore):
    """Shows the learner a rollout step by step; returns the context at each step."""
    context, contexts = pearl.begin(3, 2, streams(3, "begin")), []
    alive, feedback = torch.ones(3, 2, dtype=torch.bool), None
    for t in range(rollout.obs.shape[2]):
        obs = torch.where(alive.unsqueeze(-1), rollout.obs[:, :, t], rollout.last_obs)
        with torch.inference_mode():
            _, context = pearl.act(context, obs, torch.zeros(3, 2, 2), feedback, explore=explore)
        contexts.append(context)
        # the rollout's action takes the place of the learner's
        if context.last is not None:
            context = dataclasses.replace(context, last=(obs, rollout.action[:, :, t]))
        alive = rollout.valid[:, :, t + 1] if t + 1 < rollout.valid.shape[2] else ~alive & alive
        feedback = Feedback(rollout.reward[:, :, t], alive)
    return contexts


@pytest.mark.parametrize("explore", [True, False])
def test_guess_of_a_step_reads_the_steps_of_its_own_episode(explore):
    """Against `adapt` to the beginning of each episode alone."""
    pearl, rollout = learner(dataclasses.replace(SMALL, guess="step")), make_rollout(0)
    for t, context in enumerate(play(pearl, rollout, explore=explore)):
        latent, length = context.read(explore=explore), rollout.valid.sum(dim=2)
        for task in range(3):
            for episode in range(2):
                known = min(t, int(length[task, episode]) - 1)  # the last step ends the episode
                one = {
                    n: v[task : task + 1, episode : episode + 1] for n, v in vars(rollout).items()
                }
                beginning = dataclasses.replace(
                    Rollout(**one),
                    valid=one["valid"] & (torch.arange(5) < known),
                    last_obs=one["obs"][:, :, known],
                )
                empty = pearl.begin(1, 1, [])
                guess = pearl.adapt(empty, beginning, []).posterior if known else empty.posterior
                noise = context.noise[task, episode] if explore else 0.0
                expected = guess.mean[0] + guess.precision[0].rsqrt() * noise
                torch.testing.assert_close(latent[task, episode], expected)


def test_guess_of_an_episode_does_not_change_within_it():
    contexts = play(learner(), make_rollout(0), explore=True)
    first = contexts[0].read(explore=True)
    assert all(torch.equal(context.read(explore=True), first) for context in contexts)


def test_next_episode_starts_from_finished_episodes():
    pearl, rollout = learner(dataclasses.replace(SMALL, guess="step")), make_rollout(0)
    played = play(pearl, rollout, explore=True)[-1]
    fresh = pearl.begin(3, 2, streams(3, "begin"))
    for after in (pearl.select_episodes(played, 0, 2), pearl.adapt(played, rollout, streams(3))):
        assert after.present is None and after.last is None
    expected = pearl.adapt(fresh, rollout, streams(3))
    after = pearl.adapt(played, rollout, streams(3))
    assert torch.equal(after.read(explore=True), expected.read(explore=True))


def test_slices_of_tasks_act_as_all_of_them():
    """Contexts are cut and joined at every step; one task's episodes end at once."""
    pearl, rollout = learner(dataclasses.replace(SMALL, guess="step")), make_rollout(0)
    whole = parted = pearl.begin(3, 2, streams(3, "begin"))
    feedback = None
    for t in range(4):
        alive = rollout.valid[:, :, t + 1]
        obs, noise = rollout.obs[:, :, t], rollout.obs[:, :, t]
        with torch.inference_mode():
            expected, whole = pearl.act(whole, obs, noise, feedback, explore=True)
            actions, contexts = [], []
            for own in (slice(0, 1), slice(1, 3)):
                outcome = feedback and Feedback(feedback.reward[own], feedback.alive[own])
                part = parted.slice_tasks(own.start, own.stop)
                action, after = pearl.act(part, obs[own], noise[own], outcome, explore=True)
                actions.append(action.value)
                contexts.append(after)
        parted = PearlContext.join(contexts)
        torch.testing.assert_close(torch.cat(actions), expected.value)
        feedback = Feedback(rollout.reward[:, :, t], alive)
    assert parted.present is not None and whole.present is not None
    torch.testing.assert_close(parted.present.mean, whole.present.mean)


def test_episodes_are_over_where_a_slice_has_not_acted():
    pearl = learner(dataclasses.replace(SMALL, guess="step"))
    start = pearl.begin(3, 2, streams(3, "begin"))
    obs = torch.zeros(2, 2, 2)
    with torch.inference_mode():
        _, acted = pearl.act(start.slice_tasks(0, 2), obs, obs, None, explore=True)
    joined = PearlContext.join([acted, start.slice_tasks(2, 3)])
    assert joined.last is None and joined.present is None
    assert torch.equal(joined.read(explore=True), start.read(explore=True))
