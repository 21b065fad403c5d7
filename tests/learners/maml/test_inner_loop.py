"""Second derivatives of the inner losses against a slow loop over steps, and refused losses."""

import pytest
import torch
from meta_objective import log_prob, random_batch, small_policy

from metarl.core.errors import ConfigError
from metarl.learners.maml.config import MamlConfig
from metarl.learners.maml.surrogates import surrogate_loss


def flat_scores(policy, params, batch):
    """Scores and Hessians of log pi for every valid step of task 0."""
    names = list(params)
    sizes = [params[n].numel() for n in names]
    start = torch.cat([params[n][0].flatten() for n in names])

    def log_density(vector, obs, action):
        parts = vector.split(sizes)
        own = {n: p.view_as(params[n]) for n, p in zip(names, parts, strict=True)}
        mean = policy.network.outputs(own, obs.view(1, 1, -1))[0, 0]
        std = policy.distribution.log_std(own)[0, 0].exp()
        return torch.distributions.Normal(mean, std).log_prob(action).sum()

    scores, hessians = {}, {}
    for e, t in batch.valid[0].nonzero().tolist():
        arguments = (batch.obs[0, e, t], batch.action[0, e, t])
        scores[e, t] = torch.func.grad(log_density)(start, *arguments)
        hessians[e, t] = torch.autograd.functional.hessian(
            lambda v, a=arguments: log_density(v, *a), start
        )
    return start, scores, hessians


def surrogate_derivatives(policy, params, batch, kind):
    names = list(params)
    sizes = [params[n].numel() for n in names]

    def loss(vector):
        parts = vector.split(sizes)
        own = {n: p.view_as(params[n]) for n, p in zip(names, parts, strict=True)}
        return surrogate_loss(kind, log_prob(policy, own, batch), batch).sum()

    start = torch.cat([params[n][0].flatten() for n in names])
    return torch.func.grad(loss)(start), torch.autograd.functional.hessian(loss, start)


@pytest.mark.parametrize("kind", ["lvc", "loglik", "dice"])
def test_surrogate_has_the_right_second_derivative(kind):
    policy, params = small_policy()
    batch = random_batch(policy, params, num_tasks=1)
    start, scores, hessians = flat_scores(policy, params, batch)
    gradient, curvature = torch.zeros_like(start), torch.zeros(len(start), len(start)).double()
    for (e, t), score in scores.items():
        scale = batch.advantage[0, e, t] * batch.weight[0, e, t]
        second = hessians[e, t].clone()
        if kind in ("lvc", "dice"):
            second += torch.outer(score, score)
        if kind == "dice":
            earlier = sum((scores[e, i] for i in range(t)), torch.zeros_like(score))
            second += torch.outer(score, earlier) + torch.outer(earlier, score)
        gradient -= scale * score
        curvature -= scale * second
    found_gradient, found_curvature = surrogate_derivatives(policy, params, batch, kind)
    torch.testing.assert_close(found_gradient, gradient)
    torch.testing.assert_close(found_curvature, curvature)


@pytest.mark.parametrize(
    ("adapts", "part"), [("head", "hidden"), ("context", "network"), ("latent", "decoder")]
)
def test_reptile_that_leaves_weights_untrained_is_refused(adapts, part):
    with pytest.raises(ConfigError, match=f"learner.outer = 'reptile'.*{adapts}: the {part}"):
        MamlConfig(adapts=adapts, outer="reptile")
