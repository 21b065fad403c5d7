"""The losses against a loop over single transitions, and their gradients."""

from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal, TransformedDistribution, kl_divergence
from torch.distributions.transforms import TanhTransform

from metarl.core.rng import stream
from metarl.learners.pearl import losses
from metarl.learners.pearl.config import PearlConfig
from metarl.learners.pearl.networks import Networks
from metarl.sampling.replay_buffer import Transitions

S, A, Z = 3, 2, 2
B, C, CONTEXT = 3, 4, 5
CONFIG = PearlConfig(
    latent_size=Z,
    hidden_sizes=(6,),
    encoder_sizes=(5,),
    action_limit=0.5,
    reward_scale=3.0,
    kl_weight=0.7,
    discount=0.9,
)


WITH_DECODER = replace(CONFIG, decoder_weight=0.6)


def draw_transitions(draw, count):
    def normal(*shape):
        return torch.randn(B, count, *shape, generator=draw, dtype=torch.float64)

    terminal = torch.rand(B, count, generator=draw) < 0.4
    return Transitions(normal(S), 0.4 * normal(A).tanh(), normal(), normal(S), terminal)


class Setting:
    """Networks in double precision, and a batch."""

    def __init__(self, config=CONFIG, recent=(True, True, True), valid=None):
        self.config, draw = config, torch.Generator().manual_seed(0)
        self.networks = Networks(config, S, A)
        initial = self.networks.initial(stream(0, "init"))
        self.params = {
            n: (v.double() + 0.1 * torch.randn(v.shape, generator=draw).double()).requires_grad_()
            for n, v in initial.items()
        }
        log_temperature = torch.tensor([-0.5, 0.3], dtype=torch.float64, requires_grad=True)
        self.params[losses.TEMPERATURE] = log_temperature
        self.target = {
            n: v.detach() + 0.2 * torch.randn(v.shape, generator=draw).double()
            for n, v in self.params.items()
            if n.startswith("critic")
        }
        self.batch = losses.Batch(
            steps=draw_transitions(draw, C),
            context=draw_transitions(draw, CONTEXT),
            recent=torch.tensor(recent),
            latent_noise=torch.randn(B, Z, generator=draw).double(),
            noise=torch.randn(2, B, C, A, generator=draw).double(),
            target_entropy=-0.4,
            valid=None if valid is None else torch.tensor(valid).expand(B, CONTEXT),
            reward_moments=(0.2, 1.7),
        )

    def compute(self):
        return losses.compute(self.networks, self.params, self.target, self.batch)


def network(params, name, x):
    """A network with one hidden layer, the plain way."""
    hidden = (params[f"{name}/0/weight"] @ x + params[f"{name}/0/bias"]).clamp(min=0.0)
    return params[f"{name}/1/weight"] @ hidden + params[f"{name}/1/bias"]


def slow_losses(setting):
    """The losses as their formulas say, one transition at a time, by torch.distributions."""
    config, batch, params = setting.config, setting.batch, setting.params
    alpha = params[losses.TEMPERATURE].exp()
    critic = actor = temperature = divergence = 0.0

    def policy(obs, z, noise):
        mean, log_std = network(params, "actor", torch.cat([obs, z])).chunk(2)
        base = Normal(mean, log_std.exp())
        raw = mean + log_std.exp() * noise
        distribution = TransformedDistribution(base, TanhTransform(cache_size=1))
        action = distribution.transforms[0](raw)
        return action, distribution.log_prob(action)

    for task in range(B):
        precision, weighted = torch.ones(Z).double(), torch.zeros(Z).double()
        for i in range(CONTEXT):
            if batch.valid is not None and not batch.valid[task, i]:
                continue
            own = [getattr(batch.context, name)[task, i] for name in vars(batch.context)]
            inputs = [own[0], own[1] / 0.5, 3.0 * own[2].view(1), own[3]]
            mean, raw = network(params, "encoder", torch.cat(inputs)).chunk(2)
            weight = (1.0 + raw.exp()).log()
            precision, weighted = precision + weight, weighted + weight * mean
        guess = Normal(weighted / precision, precision**-0.5)
        prior = Normal(torch.zeros(Z).double(), torch.ones(Z).double())
        divergence += kl_divergence(guess, prior).sum() / B
        z = guess.mean + guess.stddev * batch.latent_noise[task]
        fixed = z.detach()
        for i in range(C):
            steps = batch.steps
            obs, action, reward = steps.obs[task, i], steps.action[task, i], steps.reward[task, i]
            after_obs = steps.next_obs[task, i]
            later, log_prob = policy(after_obs, fixed, batch.noise[0, task, i])
            after = torch.cat([after_obs, later, fixed])
            value = min(network(setting.target, name, after) for name in ("critic0", "critic1"))
            value = value - (alpha * log_prob).sum()
            goes_on = 0.0 if steps.terminal[task, i] else 1.0
            wanted = (3.0 * reward + 0.9 * goes_on * value).detach()
            inputs = torch.cat([obs, action / 0.5, z])
            for name in ("critic0", "critic1"):
                critic += 0.5 * (network(params, name, inputs) - wanted).square() / (B * C)
            if config.decoder_weight:
                expected = network(params, "decoder", torch.cat([obs, action / 0.5, after_obs, z]))
                error = (expected - 1.7 * (reward - 0.2)).square()
                critic += config.decoder_weight * error / (B * C)
            drawn, log_prob = policy(obs, fixed, batch.noise[1, task, i])
            inputs = torch.cat([obs, drawn, fixed])
            frozen = {name: value.detach() for name, value in params.items()}
            judged = min(network(frozen, name, inputs) for name in ("critic0", "critic1"))
            actor += ((alpha.detach() * log_prob).sum() - judged) / (B * C)
            excess = (log_prob - 0.4).detach()
            temperature += -(params[losses.TEMPERATURE] * excess).sum() / (B * C)
    return (critic + config.kl_weight * divergence).sum(), actor.sum(), temperature


def gradient(loss, params):
    return torch.autograd.grad(loss, list(params.values()), allow_unused=True)


@pytest.mark.parametrize(
    "options",
    [{}, {"config": WITH_DECODER}, {"valid": [True, False, True, True, False]}],
    ids=["published", "decoder", "few valid"],
)
@pytest.mark.parametrize("index", range(3), ids=["critic", "actor", "temperature"])
def test_loss_and_its_gradient_equal_a_loop_over_transitions(index, options):
    setting = Setting(**options)
    fast, slow = setting.compute(), slow_losses(setting)[index]
    own = (fast.critic, fast.actor, fast.temperature)[index]
    torch.testing.assert_close(own, slow)
    for name, a, b in zip(
        setting.params, gradient(own, setting.params), gradient(slow, setting.params), strict=True
    ):
        assert (a is None or not a.any()) == (b is None or not b.any()), name
        if a is not None and b is not None:
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("config", "more"), [(CONFIG, set()), (WITH_DECODER, {"decoder"})])
def test_each_loss_has_a_gradient_in_its_own_networks_only(config, more):
    setting = Setting(config)
    found = setting.compute()
    groups = {
        "critic": {"encoder", "critic0", "critic1", *more},
        "actor": {"actor"},
        "temperature": {losses.TEMPERATURE},
    }
    for loss, names in groups.items():
        own = gradient(getattr(found, loss), setting.params)
        reached = {
            name.split("/")[0]
            for name, value in zip(setting.params, own, strict=True)
            if value is not None and value.any()
        }
        assert reached == names


def test_old_contexts_do_not_train_the_encoder():
    """Each task adds its own gradient where it is recent, and none where it is not."""

    def by_encoder(*recent):
        setting = Setting(recent=recent)
        encoder = {n: v for n, v in setting.params.items() if n.startswith("encoder")}
        found = setting.compute().critic
        own = gradient(found, encoder) if any(recent) else [0.0 * v for v in encoder.values()]
        return found, own

    singles = [by_encoder(*(task == i for i in range(B))) for task in range(B)]
    loss, whole = by_encoder(True, True, True)
    for i, value in enumerate(whole):
        torch.testing.assert_close(sum(own[i] for _, own in singles), value)
        assert all(own[i].any() for _, own in singles)
    for other, _ in (*singles, by_encoder(False, False, False)):
        torch.testing.assert_close(other, loss)
    none = Setting(recent=(False,) * 3)
    encoder = {n: v for n, v in none.params.items() if n.startswith("encoder")}
    assert all(
        value is None or not value.any() for value in gradient(none.compute().critic, encoder)
    )


def test_context_of_one_task_does_not_reach_another():
    setting, other = Setting(), Setting()
    other.batch.context.reward[1] += 5.0
    latents = [losses.guess(s.networks, s.params, s.batch)[0] for s in (setting, other)]
    is_same = (latents[0] == latents[1]).all(dim=-1)
    assert is_same.tolist() == [True, False, True]


def test_nothing_follows_a_terminal_step_and_the_horizon_is_none():
    setting = Setting()
    latent = torch.zeros(B, C, Z).double()
    arguments = setting.networks, setting.params, setting.target, setting.batch, latent
    wanted, terminal = losses.bootstrap(*arguments), setting.batch.steps.terminal
    reward = 3.0 * setting.batch.steps.reward
    assert terminal.any() and not terminal.all()
    assert torch.equal(wanted[terminal], reward[terminal])
    assert (wanted[~terminal] - reward[~terminal]).abs().min() > 1e-3


def test_temperature_of_each_dimension_follows_its_own_entropy():
    """A dimension with less entropy than wanted gets a larger temperature, the other a smaller."""
    setting = Setting()
    with torch.no_grad():
        for name, value in setting.params.items():
            if name.startswith("actor"):
                value.zero_()
        # log-stds: the first number hardly varies, the second is almost uniform
        setting.params["actor/1/bias"].copy_(torch.tensor([0.0, 0.0, -3.0, -0.1]))
    (own,) = torch.autograd.grad(setting.compute().temperature, setting.params[losses.TEMPERATURE])
    assert own[0] < 0.0 < own[1]
