"""Small problems: a meta-objective that is known exactly, with its gradient in two independent ways, and random episodes."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from metarl.learners.maml.inner_loop import inner_steps, linearised_at
from metarl.learners.maml.surrogates import Batch, log_prob
from metarl.networks.policies import GaussianMLP


@dataclass(frozen=True)
class MetaObjective:
    """Adaptation by gradient ascent on the exact return, step by step.

    Attributes:
        expected_return: (policy, params) -> the return, exact.
        exact_batch: (policy, params) -> every outcome of an episode, weighted with its probability.
        step_sizes: Of the adaptations.
    """

    expected_return: Any
    exact_batch: Any
    step_sizes: tuple[float, ...]

    def adapted_return(self, policy, params):
        """The meta-objective itself: gradient ascent on the exact return, then the exact return."""
        for step_size in self.step_sizes:
            own = {n: v.detach().requires_grad_() for n, v in params.items()}
            slopes = torch.autograd.grad(self.expected_return(policy, own), list(own.values()))
            params = {
                n: v.detach() + step_size * g for (n, v), g in zip(own.items(), slopes, strict=True)
            }
        return self.expected_return(policy, params)

    def gradient(self, policy, params, kind):
        """What the learner finds from the batches, with a surrogate."""
        points, batches = [params], []
        for _ in self.step_sizes:
            batches.append(self.exact_batch(policy, points[-1]))
            sizes = self.step_sizes[: len(batches)]
            points = inner_steps(policy, kind, params, batches, sizes).points
        tape = linearised_at(policy, kind, points, batches, self.step_sizes)
        last = tape.points[-1]
        slopes = torch.autograd.grad(self.expected_return(policy, last), list(last.values()))
        return tape.transposed(dict(zip(params, slopes, strict=True)))

    def differences(self, policy, params, width=1e-5):
        """Central finite differences of the meta-objective."""
        slopes = {n: torch.zeros_like(v) for n, v in params.items()}
        for name, value in params.items():
            for i in range(value.numel()):
                ends = []
                for sign in (1.0, -1.0):
                    moved = {n: v.clone() for n, v in params.items()}
                    moved[name].view(-1)[i] += sign * width
                    ends.append(self.adapted_return(policy, moved))
                slopes[name].view(-1)[i] = (ends[0] - ends[1]) / (2.0 * width)
        return slopes


def small_policy(seed=0):
    """A network of three units and its parameters for one task, in double precision."""
    policy = GaussianMLP(1, 1, (3,), min_log_std=-3.0)
    params = policy.initial(np.random.default_rng(seed), -0.3)
    return policy, {n: v.double().unsqueeze(0) for n, v in params.items()}


def random_batch(policy, params, num_tasks=3, episodes=4, steps=5, seed=0):
    """A rollout drawn from the policy, with episodes of different lengths."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shape = (num_tasks, episodes, steps)
    obs = normal(*shape, policy.obs_size)
    with torch.no_grad():
        mean = policy.mean(params, obs.flatten(1, 2))
        noise = normal(num_tasks, episodes * steps, policy.action_size)
        action = (mean + policy.log_std(params).exp() * noise).view(*shape, -1)
    lengths = torch.randint(2, steps + 1, shape[:2], generator=generator)
    valid = (torch.arange(steps) < lengths.unsqueeze(-1)).double()
    advantage = normal(*shape) * valid
    weight = valid / valid.sum(dim=(1, 2), keepdim=True)
    batch = Batch(obs, action, torch.zeros(shape, dtype=torch.float64), advantage, valid, weight)
    with torch.no_grad():
        return replace(batch, log_prob=log_prob(policy, params, batch) * valid)
