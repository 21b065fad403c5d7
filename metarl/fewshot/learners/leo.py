"""LEO: gradient steps in a small latent space that decodes to the weights of the last layer."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from metarl.core.rollout import Params
from metarl.fewshot.learner import Outer
from metarl.fewshot.learners.inner import Order, adapt
from metarl.fewshot.network import ReluMLP, draw_matrix
from metarl.fewshot.tasks import Problem, Tasks, loss
from metarl.learners.maml.inner_loop import RATE
from metarl.networks.latent import decode_layer


@dataclass(frozen=True)
class Leo:
    """Encodes the support, steps in the latent space, decodes, and fine-tunes what is decoded.

        z ~ N(m, s^2), (m, s) = mean over pairs of examples of r(e_i, e_j),    w = decoder(z)
        z <- z - alpha grad_z L(w(z))   num_steps times,    w <- w - beta grad_w L(w)   once

    Each output has a z of its own, from the examples of its class; a regression has one, from all
    examples with their targets. alpha and beta are learned. The loss of the queries is followed by
    the divergence from N(0, 1) and by the squared distance of the first from the last z.

    Smaller than the paper's: the embedding is learned along and not fixed before, the decoder gives
    weights and no distribution of them, and its penalty on correlated rows is left out. Predictions
    use the mean of z.

    Attributes:
        problem: The tasks.
        latent_size: Z.
        num_related: Units R that relate two examples.
        num_steps: Steps in the latent space in training.
        divergence_weight: Of the divergence.
        encoder_weight: Of the distance.
        outer: The outer step.

    Source: Rusu et al. 2019 (arXiv:1807.05960).
    """

    problem: Problem
    latent_size: int = 16
    num_related: int = 32
    num_steps: int = 2
    divergence_weight: float = 1e-3
    encoder_weight: float = 1e-2
    outer: Outer = field(default_factory=Outer)

    @property
    def network(self) -> ReluMLP:
        """The network; its last layer is decoded."""
        return ReluMLP.of(self.problem)

    def initial(self, rng: np.random.Generator) -> Params:
        """See `FewShotLearner`."""
        last, width = len(self.problem.hidden_sizes), self.problem.hidden_sizes[-1]
        params = self.network.initial(rng)
        del params[f"weight{last}"], params[f"bias{last}"]
        own = {
            "relate": draw_matrix(rng, 2 * (width + self._num_targets), self.num_related),
            "relate_bias": torch.zeros(self.num_related),
            "latent": draw_matrix(rng, self.num_related, 2 * self.latent_size),
            "decode": draw_matrix(rng, self.latent_size, width + 1),
            "decode_bias": torch.zeros(width + 1),
            RATE + "latent": torch.tensor(0.5),
            RATE + "head": torch.tensor(0.01),
        }
        return {**params, **own}

    @property
    def _num_targets(self) -> int:
        return 0 if self.problem.is_classification else self.problem.output_size

    def encode(self, params: Params, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and log-deviation of z (N, A, Z) of features (N, M, H)."""
        if self.problem.is_classification:
            members = targets / targets.sum(dim=1, keepdim=True)
        else:
            features = torch.cat([features, targets], dim=-1)
            members = torch.full_like(targets, 1.0 / targets.shape[1])
        left, right = (features @ part for part in params["relate"].chunk(2))
        pairs = (left.unsqueeze(2) + right.unsqueeze(1) + params["relate_bias"]).relu()
        code = torch.bmm(members.mT, pairs.mean(dim=2)) @ params["latent"]
        mean, log_deviation = code.chunk(2, dim=-1)
        return mean, log_deviation.clamp(-5.0, 2.0)

    def decode(self, params: Params, latent: Tensor) -> Params:
        """Returns the last layer of latents (N, A, Z): weight (N, H, A) and bias (N, 1, A)."""
        weight, bias = decode_layer(latent, params["decode"], params["decode_bias"])
        return {"weight": weight, "bias": bias}

    def heads(
        self, params: Params, latent: Tensor, features: Tensor, tasks: Tasks, order: Order
    ) -> tuple[list[Tensor], Params]:
        """Returns z after each step, and the fine-tuned layer after the last one.

        Args:
            params: Meta-parameters.
            latent: The first z (N, A, Z).
            features: (N, M, H) of the support.
            tasks: N tasks.
            order: Derivatives through the steps, see `inner.adapt`.
        """

        def head_loss(head: Params) -> Tensor:
            return loss(self.problem, _apply(head, features), tasks.support_y)

        rates = [{"z": params[RATE + "latent"]}] * self.num_steps
        points = adapt(
            lambda point: head_loss(self.decode(params, point["z"])), {"z": latent}, rates, order
        )
        head = self.decode(params, points[-1]["z"])
        beta = params[RATE + "head"]
        fine = adapt(head_loss, head, [{"weight": beta, "bias": beta}], order)[-1]
        return [point["z"] for point in points], fine

    def loss(self, params: Params, tasks: Tasks, rng: np.random.Generator) -> Tensor:
        """Returns the mean loss of the queries after adaptation, with both penalties."""
        features, queries = self._features(params, tasks)
        mean, log_deviation = self.encode(params, features, tasks.support_y)
        noise = torch.from_numpy(rng.standard_normal(mean.shape)).to(mean.dtype)
        latents, head = self.heads(params, mean + log_deviation.exp() * noise, features, tasks, 2)
        divergence = 0.5 * ((2.0 * log_deviation).exp() + mean.square() - 1.0) - log_deviation
        distance = (latents[-1].detach() - latents[0]).square()
        penalty = self.divergence_weight * divergence + self.encoder_weight * distance
        error = loss(self.problem, _apply(head, queries), tasks.query_y)
        return error.mean() + penalty.sum(dim=(1, 2)).mean()

    def predict(self, params: Params, tasks: Tasks, num_steps: int) -> list[Tensor]:
        """Returns the outputs of the first z, which has read the support, and of the last layer."""
        features, queries = self._features(params, tasks)
        mean, _ = self.encode(params, features, tasks.support_y)
        _, head = self.heads(params, mean, features, tasks, 0)
        return [_apply(own, queries) for own in (self.decode(params, mean), head)]

    def _features(self, params: Params, tasks: Tasks) -> tuple[Tensor, Tensor]:
        same = {n: v.expand(len(tasks), *v.shape) for n, v in params.items()}
        net = self.network
        return net.features(same, tasks.support_x), net.features(same, tasks.query_x)


def _apply(head: Params, features: Tensor) -> Tensor:
    return torch.baddbmm(head["bias"], features, head["weight"])
