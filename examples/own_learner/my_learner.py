"""Reptile with a linear policy: a complete learner for metarl in one file.

The policy draws action = weight @ obs + bias + std * noise. Adaptation is a policy-gradient step on
the episodes of each task. Reptile (Nichol et al. 2018, arXiv:1803.02999) then moves the start of
adaptation towards the parameters that the tasks ended at; it needs no second derivatives.

Arrays are task-first: N tasks, E episodes, T steps, S observation size, A action size.
"""

import math
from dataclasses import dataclass

import torch

from metarl.core.errors import ConfigError, require
from metarl.core.rng import stream
from metarl.core.rollout import Action


@dataclass(frozen=True)
class Config:
    """Settings of MyLearner; each is a flag: --learner.inner-lr 0.1."""

    inner_lr: float = 0.03
    """Step size of an adaptation, > 0."""

    meta_lr: float = 0.5
    """Part of the way to the adapted parameters that an update goes, in (0, 1]."""

    std: float = 0.1
    """Standard deviation of the action noise, > 0 [policy output]."""

    discount: float = 0.0
    """Discount of later rewards, in [0, 1]; 0 suits rewards that judge the present step."""

    def __post_init__(self):
        """Refuses values out of range in one line, with exit code 2."""
        require(self.inner_lr > 0, "learner.inner_lr", self.inner_lr, "> 0")
        require(0 < self.meta_lr <= 1, "learner.meta_lr", self.meta_lr, "in (0, 1]")
        require(self.std > 0, "learner.std", self.std, "> 0")
        require(0 <= self.discount <= 1, "learner.discount", self.discount, "in [0, 1]")


class MyLearner:
    """The five verbs of a learner; the context is theta (N, A, S + 1), one for each task."""

    Config = Config
    summary = "Reptile with a linear policy (Nichol et al. 2018)"
    pools_episodes = True  # adapt learns from all E episodes of a task

    def __init__(self, config, obs_size, action_size, *, seed, device, num_threads, discrete):
        if discrete:
            raise ConfigError("MyLearner has no policy for discrete actions")
        self.config = config
        start = 0.01 * stream(seed, "init").standard_normal((action_size, obs_size + 1))
        self.theta = torch.from_numpy(start)  # where adaptation starts, (A, S + 1)

    def begin(self, num_tasks, num_episodes, rngs):
        """Starts every task from the same theta."""
        return self.theta.expand(num_tasks, -1, -1)

    def act(self, context, obs, noise, feedback=None, *, explore):
        """Chooses actions (N, E, A) for obs (N, E, S); without exploration the mean."""
        mean = torch.einsum("nas,nes->nea", context, _with_one(obs)).float()
        if not explore:
            return Action(mean, torch.zeros(mean.shape[:2])), context
        log_prob = torch.distributions.Normal(0.0, 1.0).log_prob(noise) - math.log(self.config.std)
        return Action(mean + self.config.std * noise, log_prob.sum(dim=2)), context

    def adapt(self, context, rollout, rngs):
        """Takes a policy-gradient step on the episodes of each task."""
        advantage = self._advantage(rollout)
        noise = rollout.action - torch.einsum("nas,nets->neta", context, _with_one(rollout.obs))
        score = noise / self.config.std**2  # gradient of the log-probability by the mean
        score = torch.where(rollout.valid[..., None], score * advantage[..., None], 0.0)
        gradient = torch.einsum("neta,nets->nas", score, _with_one(rollout.obs))
        steps = rollout.valid.sum(dim=(1, 2)).clamp(min=1)
        return context + self.config.inner_lr * gradient / steps[:, None, None]

    def _advantage(self, rollout):
        """Returns the discounted return to go, standardised over the episodes of each task."""
        togo, tail = torch.zeros_like(rollout.reward, dtype=torch.float64), 0.0
        for t in reversed(range(togo.shape[2])):
            togo[..., t] = tail = rollout.reward[..., t] + self.config.discount * tail
        count = rollout.valid.sum(dim=1, keepdim=True).clamp(min=1)
        togo = torch.where(rollout.valid, togo - togo.sum(dim=1, keepdim=True) / count, 0.0)
        return togo / togo.flatten(1).std(dim=1)[:, None, None].clamp(min=1e-8)

    def update(self, context, rollouts, tasks):
        """Moves theta towards the adapted parameters; changes nothing if it fails."""
        adapted = self.adapt(context, rollouts[-1], ())
        change = (adapted - self.theta).mean(dim=0)
        if not change.isfinite().all():
            raise FloatingPointError("the update is not finite")
        self.theta = self.theta + self.config.meta_lr * change
        return {"change": float(change.norm())}

    def state_dict(self):
        """Returns everything that a resumed run needs."""
        return {"theta": self.theta.clone()}

    def load_state_dict(self, state):
        """Restores a state_dict(); a ValueError says that it is of another learner."""
        if state.keys() != {"theta"} or state["theta"].shape != self.theta.shape:
            raise ValueError("'theta' is missing or has another shape")
        self.theta = state["theta"].clone()


def _with_one(obs):
    """Appends a 1 to each observation, so that the last column of theta is the bias."""
    return torch.cat([obs, torch.ones_like(obs[..., :1])], dim=-1).double()
