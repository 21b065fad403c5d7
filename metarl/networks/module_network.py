"""Any torch module as a function of its parameters, with automatic derivatives."""

from __future__ import annotations

import copy
import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from metarl.core.rollout import Params
from metarl.networks.mlp import TanhMLP
from metarl.networks.policies import Network

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
}
"""Activations of hidden layers by the name that a config gives."""


class ModuleNetwork:
    """A module as a function of (params, inputs), for N tasks at once.

    It does what `TanhMLP` does for any architecture. An update of MAML-TRPO with the same tanh
    network takes 3.5 times as long on a CPU (half-cheetah, 64 x 64 units): autograd stores a graph,
    and every product runs the network again. Jacobian-vector products are two products with
    the transposed Jacobian, because forward mode (`torch.func.jvp`) may be used by one thread at a
    time only.

    Args:
        module: Maps (M, S) to (M, A), row by row. Only its architecture counts; it is not changed.
        input_size: S.
        output_size: A.

    Raises:
        ValueError: The module has buffers (as batch normalization has), no parameters, or another
            size.
    """

    def __init__(self, module: nn.Module, input_size: int, output_size: int):
        self.input_size, self.output_size = input_size, output_size
        self._template = copy.deepcopy(module).to("meta")
        self._shapes = {name: value.shape for name, value in module.named_parameters()}
        if not self._shapes:
            raise ValueError("the network has no parameters to adapt")
        buffers = [name for name, _ in module.named_buffers()]
        if buffers:
            hint = "its output must depend on parameters and observation only"
            raise ValueError(f"the network has the buffer {buffers[0]!r}; {hint}")
        found = tuple(self._template(torch.zeros(2, input_size, device="meta")).shape)
        if found != (2, output_size):
            raise ValueError(
                f"the network maps (2, {input_size}) to {found}, not (2, {output_size})"
            )
        self._free: list[nn.Module] = []

    def initial(self, rng: np.random.Generator, output_gain: float = 1.0) -> Params:
        """Draws matrices, Xavier uniform, and biases of all but the last one; float32.

        These biases are uniform up to 1 / sqrt(inputs), as those of torch: with zeros, a layer norm
        divides by zero where an observation is zero. Other vectors are ones, and other biases zero.

        Args:
            rng: The stream of the initialisation.
            output_gain: Factor on the last matrix.
        """
        params: Params = {}
        matrices = [name for name, shape in self._shapes.items() if len(shape) > 1]
        for name, shape in self._shapes.items():
            layer, _, kind = name.rpartition(".")
            weight = f"{layer}.weight"
            if name in matrices:
                bound = math.sqrt(6.0 / ((shape[0] + shape[1]) * math.prod(shape[2:])))
                params[name] = torch.from_numpy(rng.uniform(-bound, bound, shape)).float()
            elif kind == "bias" and weight in matrices[:-1]:
                bound = 1.0 / math.sqrt(math.prod(self._shapes[weight][1:]))
                params[name] = torch.from_numpy(rng.uniform(-bound, bound, shape)).float()
            else:
                params[name] = torch.zeros(shape) if kind == "bias" else torch.ones(shape)
        for name in matrices[-1:]:
            params[name] *= output_gain
        return params

    def outputs(self, params: Params, inputs: Tensor) -> Tensor:
        """Returns outputs (N, M, A) for inputs (N, M, S) and parameters (N, *shape)."""
        own = {name: params[name] for name in self._shapes}
        with self._borrow() as module:
            return vmap(lambda p, x: functional_call(module, p, (x,)))(own, inputs)

    def activations(self, params: Params, inputs: Tensor) -> list[Tensor]:
        """Returns the inputs (N, M, S) and the outputs (N, M, A)."""
        return [inputs, self.outputs(params, inputs)]

    # A product keeps no graph: the order in which autograd adds up a graph that several threads
    # built depends on their number.

    @torch.enable_grad()
    def jvp(self, params: Params, tangent: Params, activations: Sequence[Tensor]) -> list[Tensor]:
        """Returns the tangent of the output along a direction in parameter space; see `Network`.

        The product u -> J^T u is linear, and its own transposed Jacobian is J.
        """
        leaves, output = self._record(params, activations[0])
        cotangent = torch.zeros_like(output, requires_grad=True)
        transposed = torch.autograd.grad(
            output, leaves, cotangent, create_graph=True, materialize_grads=True
        )
        pairs = zip(transposed, (tangent[name] for name in self._shapes), strict=True)
        products, tangents = zip(*(pair for pair in pairs if pair[0].requires_grad), strict=True)
        return list(torch.autograd.grad(products, cotangent, tangents))

    @torch.enable_grad()
    def vjp(
        self, params: Params, activations: Sequence[Tensor], cotangent: Tensor
    ) -> tuple[Params, Tensor]:
        """Returns the gradient of sum(cotangent * output), and the cotangent; see `Network`."""
        leaves, output = self._record(params, activations[0])
        gradient = torch.autograd.grad(output, leaves, cotangent, materialize_grads=True)
        return dict(zip(self._shapes, gradient, strict=True)), cotangent

    @torch.enable_grad()
    def vjp_tangent(
        self,
        params: Params,
        tangent: Params,
        activations: Sequence[Tensor],
        tangents: Sequence[Tensor],
        cotangents: Tensor,
        cotangent_tangent: Tensor,
    ) -> Params:
        """Differentiates `vjp` along a direction in parameter space; see `Network`.

        The second derivatives of sum(cotangent * output) are symmetric, so the derivative of its
        gradient along v is the gradient of its inner product with v.
        """
        del tangents
        leaves, output = self._record(params, activations[0])
        gradient = torch.autograd.grad(
            output, leaves, cotangents, create_graph=True, materialize_grads=True
        )
        pairs = zip(gradient, (tangent[name] for name in self._shapes), strict=True)
        ends = [(output, cotangent_tangent), *(pair for pair in pairs if pair[0].requires_grad)]
        values, weights = zip(*ends, strict=True)
        result = torch.autograd.grad(values, leaves, weights, materialize_grads=True)
        return dict(zip(self._shapes, result, strict=True))

    def with_params(self, params: Params) -> nn.Module:
        """Returns a copy of the module with parameters (*shape) of one task."""
        module = copy.deepcopy(self._template).to_empty(device="cpu")
        module.load_state_dict({name: params[name] for name in self._shapes})
        return module

    def _record(self, params: Params, inputs: Tensor) -> tuple[list[Tensor], Tensor]:
        """Returns copies of the parameters that collect gradients, and the output."""
        leaves = {name: params[name].detach().requires_grad_() for name in self._shapes}
        return list(leaves.values()), self.outputs(leaves, inputs.detach())

    @contextmanager
    def _borrow(self) -> Generator[nn.Module]:
        """Lends a module to one thread: `functional_call` writes the parameters into it."""
        try:
            module = self._free.pop()
        except IndexError:
            module = copy.deepcopy(self._template)
        try:
            yield module
        finally:
            self._free.append(module)


def build_network(
    input_size: int,
    output_size: int,
    hidden_sizes: Sequence[int],
    activation: str = "tanh",
    layer_norm: bool = False,
) -> Network:
    """Builds a network of fully connected layers; a plain tanh network is the fast `TanhMLP`.

    Args:
        input_size: S.
        output_size: A.
        hidden_sizes: Units of each hidden layer.
        activation: A name of ACTIVATIONS.
        layer_norm: Normalise the units of each hidden layer before the activation.
    """
    if activation == "tanh" and not layer_norm:
        return TanhMLP(input_size, output_size, tuple(hidden_sizes))
    layers: list[nn.Module] = []
    sizes = [input_size, *hidden_sizes]
    with torch.device("meta"):  # the values would be drawn from torch's global generator
        for fan_in, fan_out in zip(sizes, sizes[1:], strict=False):
            layers.append(nn.Linear(fan_in, fan_out))
            layers += [nn.LayerNorm(fan_out)] if layer_norm else []
            layers.append(ACTIVATIONS[activation]())
        layers.append(nn.Linear(sizes[-1], output_size))
    return ModuleNetwork(nn.Sequential(*layers), input_size, output_size)
