"""The meta-gradient: the gradient of the return after adaptation, through the adaptation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metarl.core.rollout import Params
from metarl.functional.params import check_gradient, flatten
from metarl.learners.maml.adaptation import Adaptation
from metarl.learners.maml.inner_loop import gradient
from metarl.learners.maml.records import Chunk, Trial
from metarl.learners.maml.surrogates import Batch


def meta_gradient(
    adaptation: Adaptation, params: Params, trial: Trial, num_threads: int = 1, *, order: int = 0
) -> Tensor:
    """Returns the mean over tasks of J_i^T grad[ratio * A] at the adapted parameters (P,).

    With `sampling_weight`, the gradient of E-MAML is added: that of the probability of the rollout
    before adaptation times the task's return after it.

        weight * R_i * grad mean_t log pi_theta(a_t | s_t),   R_i standardised over the tasks

    Args:
        adaptation: How tasks adapt.
        params: Meta-parameters, those that sampled the trial.
        trial: Rollouts and the policies that sampled them.
        num_threads: Threads over tasks; the result does not depend on it.
        order: Number of the update, a seed of the order in which conflicts are resolved.

    Raises:
        FloatingPointError: A gradient is not finite; names task and parameter.

    Source: Finn et al. 2017 (arXiv:1703.03400); Stadie et al. 2018 (arXiv:1803.01118).
    """
    config, policy = adaptation.config, adaptation.policy
    is_split = config.task_conflict == "pcgrad"
    scores = trial.standardised_returns() if config.sampling_weight else None

    def sum_chunk(chunk: Chunk) -> Tensor:
        own = trial.batches_of(chunk)
        tape = adaptation.tape(params, chunk.points, own[:-1])
        # the ratio is 1 here, so its gradient is that of log pi
        last = gradient(policy, "loglik", tape.points[-1], own[-1])
        ascent = tape.pull_back({n: -v for n, v in last.items()}, params)
        if scores is not None and len(own) > 1:
            weight = config.sampling_weight * scores[chunk.start : chunk.stop]
            first = gradient(policy, "loglik", chunk.points[0], _weigh(own[0], weight))
            ascent |= {n: ascent[n] - v for n, v in first.items()}
        check_gradient(ascent, chunk.start)
        if is_split:
            # what no update learns must not make conflicts
            learned = ((n, float(adaptation.learns(n))) for n in params)
            return torch.cat([factor * ascent[n].flatten(1) for n, factor in learned], dim=1)
        return flatten({n: ascent[n].sum(dim=0) for n in params})

    sums = trial.map(sum_chunk, num_threads)
    if is_split:
        return resolve_conflicts(torch.cat(sums), order).mean(dim=0)
    return torch.stack(sums).sum(dim=0) / trial.num_tasks


@dataclass(frozen=True)
class Measured:
    """Effect of a change of the meta-parameters on the trial that was sampled before it.

    Attributes:
        gain: Change of the surrogate return after adaptation [standard deviations].
        kl: Divergence of the adapted policies from those that sampled [nats].
        inner_kl: The same of the policy before adaptation.
    """

    gain: float
    kl: float
    inner_kl: float


def measure(adaptation: Adaptation, params: Params, trial: Trial, num_threads: int) -> Measured:
    """Measures the effect of new meta-parameters on a trial."""

    def sum_chunk(chunk: Chunk) -> Tensor:
        start = adaptation.start(params, chunk.stop - chunk.start)
        first, old = trial.batches_of(chunk)[0], chunk.points[0]
        network, distribution = adaptation.policy.network, adaptation.policy.distribution
        with torch.no_grad():
            obs = first.obs.flatten(1, 2)
            outputs = network.outputs(old, obs), network.outputs(start, obs)
            kl = distribution.kl_divergence(old, outputs[0], start, outputs[1])
            inner = (kl * first.weight.flatten(1)).sum()
        return torch.cat([objective(adaptation, params, trial, chunk), inner.unsqueeze(0)])

    sums = torch.stack(trial.map(sum_chunk, num_threads)).sum(dim=0)
    gain, kl, inner = (sums / trial.num_tasks).tolist()
    final = trial.batches[-1]
    before = float((final.advantage * final.weight).sum()) / trial.num_tasks
    return Measured(gain - before, kl, inner)


def objective(adaptation: Adaptation, params: Params, trial: Trial, chunk: Chunk) -> Tensor:
    """Adapts from params; sums surrogate and KL to the sampling policies over tasks (2,).

    With `sampling_weight` the surrogate includes the term of E-MAML, zero at the sampling policy:

        weight * R_i * mean_t[pi_theta / pi_old - 1]    on the rollout before adaptation
    """
    own = trial.batches_of(chunk)
    start = adaptation.start(params, chunk.stop - chunk.start)
    final, point = own[-1], adaptation.steps(params, start, own[:-1]).points[-1]
    network, distribution = adaptation.policy.network, adaptation.policy.distribution
    with torch.no_grad():
        output = network.outputs(point, final.obs.flatten(1, 2))
        new = distribution.log_prob(point, output, final.action.flatten(1, 2))
        ratio = (new - old_log_prob(adaptation, chunk, final)).exp()
        weight = final.weight.flatten(1)
        gain = (ratio * final.advantage.flatten(1) * weight).sum()
        if adaptation.config.sampling_weight and len(own) > 1:
            gain = gain + _sampling_gain(adaptation, start, trial, chunk)
        kl = distribution.kl_divergence(chunk.points[-1], chunk.output, point, output)
        return torch.stack([gain, (kl * weight).sum()])


def _sampling_gain(adaptation: Adaptation, start: Params, trial: Trial, chunk: Chunk) -> Tensor:
    """Returns the sum () over tasks of E-MAML's term, see `objective`."""
    first = trial.batches[0].slice_tasks(chunk.start, chunk.stop)
    obs, actions = first.obs.flatten(1, 2), first.action.flatten(1, 2)
    network, distribution = adaptation.policy.network, adaptation.policy.distribution
    old, new = (
        distribution.log_prob(point, network.outputs(point, obs), actions)
        for point in (chunk.points[0], start)
    )
    change = (torch.expm1(new - old) * first.weight.flatten(1)).sum(dim=1)
    scores = trial.standardised_returns()[chunk.start : chunk.stop]
    return adaptation.config.sampling_weight * (scores * change).sum()


def old_log_prob(adaptation: Adaptation, chunk: Chunk, final: Batch) -> Tensor:
    """Returns log-probabilities (n, E * T) under the policy that sampled the last rollout."""
    actions = final.action.flatten(1, 2)
    return adaptation.policy.distribution.log_prob(chunk.points[-1], chunk.output, actions)


def _weigh(batch: Batch, weight: Tensor) -> Batch:
    """Returns the batch with one advantage (n,) for each task."""
    advantage = weight.view(-1, 1, 1) * batch.valid
    return Batch(batch.obs, batch.action, batch.log_prob, advantage, batch.valid, batch.weight)


def resolve_conflicts(gradients: Tensor, seed: int = 0) -> Tensor:
    """Removes from each task's gradient what points against those of other tasks.

        g_i <- g_i - (g_i . g_j) / |g_j|^2 g_j   for each j, in random order, where g_i . g_j < 0

    Args:
        gradients: (N, P).
        seed: Of the order.

    Returns:
        (N, P).

    Source: Yu et al. 2020, PCGrad (arXiv:2001.06782).
    """
    rng, result = np.random.default_rng(seed), gradients.clone()
    squares = gradients.square().sum(dim=1).clamp(min=1e-30)
    for own in range(len(gradients)):
        for other in rng.permutation(len(gradients)).tolist():
            if other == own:
                continue
            inner = torch.dot(result[own], gradients[other])
            result[own] -= torch.clamp(inner, max=0.0) / squares[other] * gradients[other]
    return result
