"""Small problems: an exact meta-objective with two independent gradients, and random episodes."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from metarl.core.rollout import Rollout
from metarl.learners.maml.inner_loop import inner_steps, linearise
from metarl.learners.maml.surrogates import Batch
from metarl.networks.distributions import DiagonalGaussian
from metarl.networks.mlp import TanhMLP
from metarl.networks.policies import MLPPolicy


def log_prob(policy, params, batch):
    """Log-probabilities (N, E, T) of a batch's actions, differentiable by autograd."""
    output = policy.network.outputs(params, batch.obs.flatten(1, 2))
    action = batch.action.flatten(1, 2)
    return policy.distribution.log_prob(params, output, action).view_as(batch.advantage)


@dataclass(frozen=True)
class MetaObjective:
    """Adaptation by gradient ascent on the exact return, step by step.

    Attributes:
        expected_return: (policy, params) -> the exact return.
        exact_batch: (policy, params) -> every outcome of an episode, weighted by its probability.
        step_sizes: One for each adaptation.
    """

    expected_return: Any
    exact_batch: Any
    step_sizes: tuple[float, ...]

    def adapted_return(self, policy, params):
        """Adapts by gradient ascent on the exact return; returns the exact return.

        Parameters beyond their bounds are moved to the bound before every step.
        """
        for step_size in self.step_sizes:
            params = {**params, **policy.distribution.clamp(params)}
            own = {n: v.detach().requires_grad_() for n, v in params.items()}
            value = self.expected_return(policy, own)
            gradient = dict(zip(own, torch.autograd.grad(value, list(own.values())), strict=True))
            params = {n: v.detach() + step_size * gradient[n] for n, v in own.items()}
        return self.expected_return(policy, params)

    def gradient(self, policy, params, kind):
        """The learner's meta-gradient from the batches, with a surrogate."""
        points, batches = [params], []
        for _ in self.step_sizes:
            batches.append(self.exact_batch(policy, points[-1]))
            sizes = self.step_sizes[: len(batches)]
            points = inner_steps(policy, kind, params, batches, sizes).points
        tape = linearise(policy, kind, points, batches, self.step_sizes)
        last = tape.points[-1]
        value = self.expected_return(policy, last)
        gradients = torch.autograd.grad(value, list(last.values()))
        return tape.vjp(dict(zip(params, gradients, strict=True)))

    def differences(self, policy, params, width=1e-5):
        """Central finite differences of the meta-objective."""
        gradient = {n: torch.zeros_like(v) for n, v in params.items()}
        for name, value in params.items():
            for i in range(value.numel()):
                ends = []
                for sign in (1.0, -1.0):
                    shifted = {n: v.clone() for n, v in params.items()}
                    shifted[name].view(-1)[i] += sign * width
                    ends.append(self.adapted_return(policy, shifted))
                gradient[name].view(-1)[i] = (ends[0] - ends[1]) / (2.0 * width)
        return gradient


# --- a small problem with exact expectations: two states, reward polynomial in the action

STATES = torch.tensor([[-0.7], [0.9]], dtype=torch.float64)
NODES, WEIGHTS = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(24))
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def quadratic_reward(state, action):
    return -(action - 2.0 * state).square() + 0.5 * state * action


def quadrature_objective(step_sizes, reward=quadratic_reward):
    """The meta-objective by quadrature, exact for a reward that is a polynomial in the action."""

    def expected_return(policy, params):
        mean = policy.network.outputs(params, STATES.unsqueeze(0))[0]
        std = policy.distribution.log_std(params)[0].exp()
        actions = mean + std * NODES
        return (reward(STATES, actions) * WEIGHTS).sum(dim=1).mean()

    def exact_batch(policy, params):
        """The nodes as a rollout of one task: weights are exact probabilities."""
        with torch.no_grad():
            mean = policy.network.outputs(params, STATES.unsqueeze(0))[0]
            log_std = policy.distribution.log_std(params)[0]
            actions = (mean + log_std.exp() * NODES).reshape(1, -1, 1, 1)
            obs = STATES.expand(-1, len(NODES)).reshape(1, -1, 1, 1)
            weight = (WEIGHTS.expand(len(STATES), -1) / len(STATES)).reshape(1, -1, 1)
            gain = reward(obs, actions).squeeze(-1)
            batch = Batch(obs, actions, torch.zeros_like(gain), gain, torch.ones_like(gain), weight)
            return replace(batch, log_prob=log_prob(policy, params, batch))

    return MetaObjective(expected_return, exact_batch, tuple(step_sizes))


def small_policy(seed=0):
    """A network of three units and its parameters for one task, in double precision."""
    policy = MLPPolicy(TanhMLP(1, 1, (3,)), DiagonalGaussian(-0.3, min_log_std=-3.0))
    params = policy.initial(np.random.default_rng(seed))
    return policy, {n: v.double().unsqueeze(0) for n, v in params.items()}


def random_batch(policy, params, num_tasks=3, episodes=4, steps=5, seed=0):
    """A rollout sampled from the policy, with episodes of different lengths."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shape = (num_tasks, episodes, steps)
    network, distribution = policy.network, policy.distribution
    obs = normal(*shape, network.input_size)
    with torch.no_grad():
        mean = network.outputs(params, obs.flatten(1, 2))
        noise = normal(num_tasks, episodes * steps, network.output_size)
        action = (mean + distribution.log_std(params).exp() * noise).view(*shape, -1)
    lengths = torch.randint(2, steps + 1, shape[:2], generator=generator)
    valid = (torch.arange(steps) < lengths.unsqueeze(-1)).double()
    advantage = normal(*shape) * valid
    weight = valid / valid.sum(dim=(1, 2), keepdim=True)
    batch = Batch(obs, action, torch.zeros(shape, dtype=torch.float64), advantage, valid, weight)
    with torch.no_grad():
        return replace(batch, log_prob=log_prob(policy, params, batch) * valid)


def as_rollout(batch):
    done = torch.zeros(batch.valid.shape[:2], dtype=torch.bool)
    return Rollout(
        obs=batch.obs,
        action=batch.action,
        log_prob=batch.log_prob,
        reward=batch.advantage,
        valid=batch.valid.bool(),
        terminated=done,
        truncated=done,
        last_obs=batch.obs[:, :, -1],
    )


def double_trial(learner, num_tasks=3, num_adaptations=1):
    """A float64 trial with rollouts sampled from the learner's own policies."""
    learner.params = {n: v.double() for n, v in learner.params.items()}
    context = learner.begin(num_tasks, 4, ())
    rollouts = []
    for k in range(num_adaptations + 1):
        batch = random_batch(learner.policy, context.params, num_tasks, seed=k)
        rollouts.append(as_rollout(batch))
        if k < num_adaptations:
            context = learner.adapt(context, rollouts[-1], ())
    return context, rollouts


def played(learner, num_adaptations=1):
    """The record of a trial of a MAML learner in double precision, as its update makes it."""
    context, rollouts = double_trial(learner, num_adaptations=num_adaptations)
    final, _ = learner._batch(rollouts[-1])
    return learner._trial(context, rollouts[-1], final)


def assert_tangents_transpose_cotangents(learner):
    """<J d, w> = <d, J^T w> for the derivative J of two adaptations, at random d and w."""
    trial, rng = played(learner, num_adaptations=2), torch.Generator().manual_seed(6)
    chunk = trial.chunks[0]
    tape = learner.adaptation.tape(learner.params, chunk.points, trial.batches_of(chunk)[:-1])

    def draw(values):
        return {n: torch.randn(v.shape, generator=rng, dtype=v.dtype) for n, v in values.items()}

    meta = {n: v.unsqueeze(0) for n, v in draw(learner.params).items()}
    own = draw(chunk.points[0])
    forward = sum(float((v * own[n]).sum()) for n, v in tape.jvp(meta).items())
    back = tape.pull_back(own, learner.params)
    assert forward == pytest.approx(sum(float((v * meta[n]).sum()) for n, v in back.items()))
