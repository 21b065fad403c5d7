"""The dynamics model: its loss, its gradient step on past transitions, and the meta-gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.core.rollout import Params
from metarl.functional.params import repeat
from metarl.functional.running_moments import MAX_SCALED, Moments, normalize
from metarl.networks.mlp import Cotangents, TanhMLP

RATE = "log_rate/"
"""Start of the names of the logs of the step sizes."""


@dataclass(frozen=True)
class Transitions:
    """L transitions of each of B rows, scaled.

    Attributes:
        inputs: State and action (B, L, S + 1 + A).
        targets: Change of the state (B, L, S + 1).
        weight: 1 for a transition, 0 for a gap (B, L).
    """

    inputs: Tensor
    targets: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Scales:
    """Scales of states and their changes: means and reciprocal standard deviations (S + 1,).

    A state is the observation, followed by the reward of the step that led to it.
    """

    state: tuple[Tensor, Tensor]
    change: tuple[Tensor, Tensor]
    action_bound: float

    @staticmethod
    def of(moments: dict[str, Moments], bound: float, device: torch.device | str = "cpu") -> Scales:
        """Returns the scales of the moments "state" and "change"."""
        return Scales(**{n: m.scale(device) for n, m in moments.items()}, action_bound=bound)

    def inputs(self, state: Tensor, action: Tensor) -> Tensor:
        """Returns the model's inputs (..., S + 1 + A)."""
        return torch.cat([normalize(state, self.state), action / self.action_bound], dim=-1)

    def targets(self, state: Tensor, next_state: Tensor) -> Tensor:
        """Returns the model's targets (..., S + 1)."""
        return normalize(next_state - state, self.change)

    def advance(self, state: Tensor, change: Tensor) -> Tensor:
        """Returns the scaled state after a predicted change, both (..., S + 1)."""
        mean, factor = self.change
        following = torch.addcmul(state + mean * self.state[1], change, self.state[1] / factor)
        return following.clamp_(-MAX_SCALED, MAX_SCALED)


@dataclass(frozen=True)
class Tape:
    """Derivatives of the loss at one point, for the derivatives of these.

    Attributes:
        activations: Of the network; the output is last.
        curvature: Second derivatives (B, L, S + 1) of the loss by the outputs.
        cotangents: Of the network.
        gradient: Of each row's loss (B, *shape).
    """

    activations: list[Tensor]
    curvature: Tensor
    cotangents: Cotangents
    gradient: Params


@dataclass(frozen=True)
class DynamicsModel:
    """A network that predicts the change of observation and reward.

        loss = mean over transitions of  mean_s (error of obs s)^2 + w (error of the reward)^2

    Parameters are functions' arguments; the step sizes stand among them as `log_rate/NAME` ().

    Attributes:
        network: Maps (S + 1 + A) to (S + 1) numbers, the reward's last.
        reward_weight: w.
        learn_rates: The step sizes have a gradient.
    """

    network: TanhMLP
    reward_weight: float = 1.0
    learn_rates: bool = True

    def loss(self, output: Tensor, batch: Transitions) -> Tensor:
        """Returns the loss (B,) of outputs (B, L, S + 1); 0 for a row of gaps."""
        error = ((output - batch.targets).square() * self._factor(output)).sum(dim=-1)
        return (error * _share(batch.weight)).sum(dim=-1)

    def _factor(self, like: Tensor) -> Tensor:
        """Returns the weight of each output's squared error (S + 1,)."""
        size = like.shape[-1] - 1
        factor = like.new_full((size + 1,), 1.0 / size)
        factor[-1] = self.reward_weight
        return factor

    def _curvature(self, output: Tensor, weight: Tensor) -> Tensor:
        """Returns the second derivatives (B, L, S + 1) of the loss by the outputs."""
        return 2.0 * self._factor(output) * _share(weight).unsqueeze(-1)

    def differentiate(self, params: Params, batch: Transitions) -> Tape:
        """Differentiates each row's loss at its parameters (B, *shape)."""
        activations = self.network.activations(params, batch.inputs)
        curvature = self._curvature(activations[-1], batch.weight)
        cotangent = curvature * (activations[-1] - batch.targets)
        gradient, cotangents = self.network.vjp(params, activations, cotangent)
        return Tape(activations, curvature, cotangents, gradient)

    @torch.no_grad()
    def adapt(self, params: Params, past: Transitions) -> Params:
        """Takes one gradient step on the past of every row.

            theta_i' = theta - alpha grad loss_i(theta)

        Args:
            params: theta and the logs of alpha, (*shape).
            past: M transitions of B rows; a row of gaps keeps theta.

        Returns:
            theta' (B, *shape).

        Source: Nagabandi et al. 2019 (arXiv:1803.11347).
        """
        own = repeat(weights(params), len(past.inputs))
        return _descend(own, params, self.differentiate(own, past).gradient)

    @torch.no_grad()
    def meta_gradient(
        self, params: Params, past: Transitions, future: Transitions
    ) -> tuple[Params, Tensor]:
        """Differentiates the mean loss of the adapted model on the future of its row.

            u_i = grad loss_i,future(theta_i')      H_i = hessian of loss_i,past(theta)
            d / d theta = mean_i (u_i - H_i (alpha u_i))
            d / d log alpha_n = - mean_i alpha_n <u_i, grad loss_i,past(theta)>_n

        Args:
            params: theta and the logs of alpha, (*shape).
            past: M transitions of B rows.
            future: K transitions after them.

        Returns:
            The gradient (*shape), and the losses before and after adaptation (B, 2) on the future.

        Source: Nagabandi et al. 2019; Pearlmutter 1994 for H u.
        """
        network, own = self.network, repeat(weights(params), len(past.inputs))
        tape = self.differentiate(own, past)
        after = self.differentiate(_descend(own, params, tape.gradient), future)
        tangent = {n: params[RATE + n].exp() * v for n, v in after.gradient.items()}
        tangents = network.jvp(own, tangent, tape.activations)
        change = tape.curvature * tangents[-1]  # of the cotangent
        parts = own, tangent, tape.activations, tangents, tape.cotangents, change
        product = network.vjp_tangent(*parts)
        result = {n: (v - product[n]).mean(dim=0) for n, v in after.gradient.items()}
        for name, value in tape.gradient.items():
            inner = (tangent[name] * value).flatten(1).sum(dim=1).mean()
            result[RATE + name] = -inner if self.learn_rates else torch.zeros_like(inner)
        before = self.loss(network.outputs(own, future.inputs), future)
        return result, torch.stack([before, self.loss(after.activations[-1], future)], dim=1)


def weights(params: Params) -> Params:
    """Returns the parameters of the network, without the step sizes."""
    return {n: v for n, v in params.items() if not n.startswith(RATE)}


def _descend(start: Params, params: Params, step: Params) -> Params:
    return {n: v - params[RATE + n].exp() * step[n] for n, v in start.items()}


def _share(weight: Tensor) -> Tensor:
    """Returns the share (B, L) of every transition in the mean of its row."""
    return weight / weight.sum(dim=-1, keepdim=True).clamp(min=1.0)
