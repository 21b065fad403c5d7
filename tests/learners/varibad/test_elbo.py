"""The ELBO, its gradient and the steps that estimate it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence
from varibad_bench import CONFIG, build, learn

from metarl.core.rng import stream
from metarl.functional.running_moments import Moments
from metarl.learners.varibad.elbo import (
    draw_batch,
    draw_steps,
    elbo_gradient,
    elbo_loss,
    kl_to_previous,
)

VARIANTS = {
    "all steps": replace(CONFIG, elbo_steps=0, decoded_steps=0),
    "drawn steps": replace(CONFIG, elbo_steps=3, decoded_steps=4),
    "transitions": replace(CONFIG, elbo_steps=0, decoded_steps=3, transition_weight=0.7),
    "mingru": replace(CONFIG, memory="mingru", elbo_steps=3, decoded_steps=0, kl_weight=2.0),
}


def problem(config):
    """A network in float64 and a batch of trials, of which some fall or fail."""
    learner = build(config)
    learn(learner, range(1), eventful=True)
    buffer = learner._buffer
    trials = buffer.rows(torch.arange(buffer.count))
    assert not trials.valid.all() and (trials.acted & ~trials.valid).any()
    moments = learner._state.moments["obs"], learner._state.moments["reward"]
    batch = draw_batch(trials, *moments, config, stream(0, "elbo"))
    numbers = {n: v.double() for n, v in vars(batch).items() if v.is_floating_point()}
    return learner.network.double(), replace(batch, **numbers), trials, moments


def gaussian(mean, log_variance):
    return Independent(Normal(mean, (0.5 * log_variance).exp()), 1)


def decode(decoder, latent, step):
    """A decoder on one latent sample and one step, joined before the first layer."""
    first = torch.cat([decoder.from_latent.weight, decoder.from_step.weight], dim=1)
    hidden = (first @ torch.cat([latent, step]) + decoder.from_latent.bias).tanh()
    hidden = (decoder.rest[1].weight @ hidden + decoder.rest[1].bias).tanh()
    return decoder.output.weight @ hidden + decoder.output.bias


def obvious_loss(network, batch, config):
    """The mean over trials, belief by belief and step by step, with the memory in steps."""
    size, losses = batch.steps.shape[-1], []
    num_obs = (size - 1) // 2
    for row in range(len(batch.reward)):
        state, beliefs = tuple(s.double() for s in network.memory.initial(1)), []
        length, valid = int(batch.acted[row].sum()), batch.valid[row]
        for t in range(length):
            features, state = network.memory.step(batch.inputs[t, row][None], state)
            beliefs.append(gaussian(*network.belief(features)[0].chunk(2)))
        zero = torch.zeros(config.latent_size, dtype=torch.double)
        divergence = 0.0
        for one, other in zip(beliefs, [gaussian(zero, zero), *beliefs], strict=False):
            divergence = divergence + kl_divergence(one, other) / length
        errors = []
        for j, t in enumerate(batch.sampled[row].tolist()):
            for i in batch.decoded[row].tolist():
                if t >= length or not valid[i]:
                    continue
                latent = beliefs[t].mean + beliefs[t].stddev * batch.noise[row, j]
                step = batch.steps[row, i]
                found = decode(network.rewards, latent, step)[0]
                error = 0.5 * (found - batch.reward[row, i]) ** 2
                if config.transition_weight:
                    found = decode(network.transitions, latent, step[: num_obs + 1])
                    after = 0.5 * ((found - step[num_obs + 1 :]) ** 2).mean()
                    error = error + config.transition_weight * after
                errors.append(error)
        losses.append(torch.stack(errors).mean() + config.kl_weight * divergence / int(valid.sum()))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("name", VARIANTS)
def test_elbo_and_gradient_equal_a_loop_over_beliefs_and_steps(name):
    config = VARIANTS[name]
    network, batch, *_ = problem(config)
    expected = obvious_loss(network, batch, config)
    loss, _ = elbo_loss(network, batch, config)
    torch.testing.assert_close(loss / len(batch.reward), expected)
    own = torch.autograd.grad(expected, network.encoder_parameters())
    found, _ = elbo_gradient(network, batch, config, num_threads=1)
    assert max(float(each.abs().max()) for each in own) > 1e-3
    torch.testing.assert_close(found, list(own))


def test_divergence_of_beliefs_equals_that_of_torch():
    rng = np.random.default_rng(0)
    mean, log_variance = (torch.from_numpy(rng.standard_normal((5, 3, 4))) for _ in range(2))
    found = kl_to_previous(mean, log_variance)
    start = gaussian(torch.zeros(3, 4, dtype=torch.double), torch.zeros(3, 4, dtype=torch.double))
    torch.testing.assert_close(found[0], kl_divergence(gaussian(mean[0], log_variance[0]), start))
    for t in range(1, 5):
        pair = (gaussian(mean[i], log_variance[i]) for i in (t, t - 1))
        torch.testing.assert_close(found[t], kl_divergence(*pair))


def test_steps_are_scaled_as_the_inputs_of_decoders_say():
    config = VARIANTS["all steps"]
    _, batch, trials, (obs, reward) = problem(config)
    mean, std = obs.mean.float(), obs.variance.sqrt().float()
    for row in range(len(trials.reward)):
        for t in range(int(trials.valid[row].sum())):
            own = trials.obs[row, t], trials.next_obs[row, t]
            first, last = ((each - mean) / std for each in own)
            expected = torch.cat([first, trials.action[row, t], last]).double()
            torch.testing.assert_close(batch.steps[row, t], expected, rtol=1e-5, atol=1e-5)
            scaled = (trials.reward[row, t] - reward.mean[0]) / reward.variance[0].sqrt()
            assert float(batch.reward[row, t]) == pytest.approx(float(scaled), rel=1e-4, abs=1e-5)


def test_drawn_steps_are_one_of_each_interval_and_equally_often():
    lengths = torch.tensor([10, 7])
    drawn = torch.cat([draw_steps(stream(0, "s", i), lengths, 3) for i in range(4000)])
    for row, length in enumerate(lengths.tolist()):
        own = drawn[row::2]
        assert own.min() == 0 and own.max() == length - 1
        share = torch.bincount(own.flatten(), minlength=length) / own.numel()
        assert float((share - 1.0 / length).abs().max()) < 0.01
        low = torch.tensor([0, length // 3, 2 * length // 3])
        assert bool((own >= low).all()) and bool((own.diff(dim=1) >= 0).all())


def test_all_steps_are_taken_where_more_are_asked_for():
    for number in (0, 10, 99):
        found = draw_steps(stream(0, "s"), torch.tensor([10, 7]), number)
        assert found.tolist() == [list(range(10))] * 2


def test_moments_of_constant_rewards_do_not_become_noise():
    config = VARIANTS["all steps"]
    network, _, trials, (obs, _) = problem(config)
    constant = replace(trials, reward=torch.ones_like(trials.reward))
    moments = Moments.initial(1).merge(torch.ones(50, 1))
    batch = draw_batch(constant, obs, moments, config, stream(0, "elbo"))
    assert torch.equal(batch.reward, torch.zeros_like(batch.reward))
