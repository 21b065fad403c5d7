"""LEO: the first rollout is encoded into the latent code, from which gradient steps start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metarl.core.rollout import Params
from metarl.functional.params import leaves
from metarl.learners.maml.adaptation import GradientSteps
from metarl.learners.maml.config import MamlConfig
from metarl.learners.maml.inner_loop import Linearised, Tape
from metarl.learners.maml.surrogates import Batch
from metarl.networks.latent import LATENT
from metarl.networks.mlp import TanhMLP
from metarl.networks.policies import MLPPolicy

ENCODER = "encoder/"
"""Beginning of the names of the encoder's parameters among the meta-parameters."""

READ, READ_BIAS, WRITE = (ENCODER + name for name in ("read", "read_bias", "write"))


@dataclass(frozen=True)
class EncodedSteps:
    """Gradient steps in the latent space, from a code of the first rollout.

        z_1 = z - alpha grad_z L_0(z)    at z = z_0 + mean_t[tanh([o_t, a_t, A_t] R + b)] W

    Later steps are gradient steps alone. W is zero at the start of training, so that training
    starts as MAML in the latent space.

    Smaller than the paper's: the encoder reads transitions one by one and not in pairs, it gives a
    code and no distribution of codes, and what is decoded is not fine-tuned.

    Attributes:
        policy: The policy, with a `LatentNetwork`.
        config: Settings.

    Source: Rusu et al. 2019 (arXiv:1807.05960).
    """

    policy: MLPPolicy
    config: MamlConfig

    @property
    def _steps(self) -> GradientSteps:
        return GradientSteps(self.policy, self.config)

    def initial(self, params: Params, rng: np.random.Generator) -> Params:
        """See `Adaptation`."""
        network, units = self.policy.network, self.config.encoder_size
        read = TanhMLP(network.input_size + network.output_size + 1, units, ()).initial(rng)
        own = {
            READ: read["weight0"],
            READ_BIAS: read["bias0"],
            WRITE: torch.zeros(units, params[LATENT].numel()),
        }
        return self._steps.initial(params, rng) | {n: v.to(params[LATENT]) for n, v in own.items()}

    def start(self, params: Params, num_tasks: int) -> Params:
        """See `Adaptation`."""
        return self._steps.start(_without_encoder(params), num_tasks)

    def moves(self, name: str) -> bool:
        """See `Adaptation`."""
        return self._steps.moves(name)

    def learns(self, name: str) -> bool:
        """See `Adaptation`."""
        return name.startswith(ENCODER) or self._steps.learns(name)

    def steps(self, params: Params, start: Params, batches: Sequence[Batch]) -> Tape:
        """See `Adaptation`."""
        if not batches:
            return self._steps.steps(params, start, batches)
        encoded = _add_code(start, Encoding.of(params, batches[0]).code)
        tape = self._steps.steps(_without_encoder(params), encoded, batches)
        return Tape([leaves(start), *tape.points[1:]], tape.gradients, (), (), tape.rates)

    def step(
        self, params: Params, points: Sequence[Params], batches: Sequence[Batch]
    ) -> Linearised:
        """See `Adaptation`."""
        if len(batches) == 1:
            return self.steps(params, points[0], batches)
        return self._steps.step(_without_encoder(params), points, batches)

    def tape(
        self, params: Params, points: Sequence[Params], batches: Sequence[Batch]
    ) -> Linearised:
        """See `Adaptation`."""
        if not batches:
            return self._steps.tape(params, points, batches)
        encoding = Encoding.of(params, batches[0])
        encoded = [_add_code(points[0], encoding.code), *points[1:]]
        return EncodedTape(self._steps.tape(_without_encoder(params), encoded, batches), encoding)


@dataclass(frozen=True)
class Encoding:
    """The codes of n tasks, and what their derivatives need.

    Attributes:
        params: Of the encoder.
        inputs: Observation, action and advantage (n, M, S + A + 1).
        weight: Of each step in the mean (n, M, 1).
        hidden: (n, M, R).
    """

    params: Params
    inputs: Tensor
    weight: Tensor
    hidden: Tensor

    @staticmethod
    @torch.no_grad()
    def of(params: Params, batch: Batch) -> Encoding:
        """Encodes the rollouts of n tasks."""
        own = {n: v.detach() for n, v in params.items() if n.startswith(ENCODER)}
        rows = torch.cat([batch.obs, batch.action, batch.advantage.unsqueeze(-1)], dim=-1)
        inputs = rows.flatten(1, 2)
        hidden = (inputs @ own[READ] + own[READ_BIAS]).tanh()
        return Encoding(own, inputs, batch.weight.flatten(1).unsqueeze(-1), hidden)

    @property
    def pooled(self) -> Tensor:
        """Mean over the steps (n, R)."""
        return (self.weight * self.hidden).sum(dim=1)

    @property
    def code(self) -> Tensor:
        """Codes (n, A * Z)."""
        return self.pooled @ self.params[WRITE]

    @torch.no_grad()
    def jvp(self, tangent: Params) -> Tensor:
        """Returns the tangents (n, A * Z) of the codes for values (n, *shape)."""
        change = torch.baddbmm(tangent[READ_BIAS].unsqueeze(1), self.inputs, tangent[READ])
        pooled = (self.weight * (1.0 - self.hidden.square()) * change).sum(dim=1)
        own = torch.bmm(self.pooled.unsqueeze(1), tangent[WRITE]).squeeze(1)
        return own + pooled @ self.params[WRITE]

    @torch.no_grad()
    def vjp(self, cotangent: Tensor) -> Params:
        """Returns the gradients (n, *shape) for cotangents (n, A * Z) of the codes."""
        pooled = (cotangent @ self.params[WRITE].t()).unsqueeze(1)
        before = self.weight * (1.0 - self.hidden.square()) * pooled
        return {
            READ: torch.bmm(self.inputs.mT, before),
            READ_BIAS: before.sum(dim=1),
            WRITE: self.pooled.unsqueeze(2) * cotangent.unsqueeze(1),
        }


@dataclass(frozen=True)
class EncodedTape:
    """Gradient steps from an encoded point, for products with the Jacobian of both.

    Attributes:
        inner: The steps.
        encoding: Of the first rollout.
    """

    inner: Linearised
    encoding: Encoding

    @property
    def points(self) -> Sequence[Params]:
        """See `Linearised`; the first point has the code."""
        return self.inner.points

    @property
    def gradients(self) -> Sequence[Params]:
        """See `Linearised`."""
        return self.inner.gradients

    def pull_back(self, cotangent: Params, params: Params) -> Params:
        """See `Linearised`."""
        found = self.inner.pull_back(cotangent, _without_encoder(params))
        own = self.encoding.vjp(found[LATENT].flatten(1))
        return {n: own[n] if n in own else found[n] for n in params}

    def jvp(self, vector: Params) -> Params:
        """See `Linearised`."""
        return self.inner.jvp(_add_code(_without_encoder(vector), self.encoding.jvp(vector)))


def _without_encoder(params: Params) -> Params:
    return {n: v for n, v in params.items() if not n.startswith(ENCODER)}


def _add_code(point: Params, code: Tensor) -> Params:
    """Returns a point (n, *shape) with codes (n, A * Z) added to its latent."""
    return {**point, LATENT: point[LATENT] + code.view_as(point[LATENT])}
