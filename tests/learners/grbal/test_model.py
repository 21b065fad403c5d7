"""The dynamics model: its adaptation and its meta-gradient, in double precision."""

import math

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad

from metarl.functional.running_moments import Moments
from metarl.learners.grbal.model import RATE, DynamicsModel, Scales, Transitions
from metarl.networks.mlp import TanhMLP

NETWORK = TanhMLP(3, 3, (5, 4))
WEIGHT = 0.7


def draw(rows, length, seed):
    rng = torch.Generator().manual_seed(seed)
    shape = {"generator": rng, "dtype": torch.float64}
    weight = (torch.rand(rows, length, **shape) < 0.7).double()
    parts = torch.randn(rows, length, 3, **shape), torch.randn(rows, length, 3, **shape)
    return Transitions(*parts, weight)


def parameters():
    params = {n: v.double() for n, v in NETWORK.initial(np.random.default_rng(0)).items()}
    rates = np.linspace(-1.0, -2.5, len(params))
    return params | {
        RATE + n: torch.tensor(rate, dtype=torch.float64)
        for n, rate in zip(list(params), rates, strict=True)
    }


class Obvious(torch.nn.Module):
    """The network and its loss on one row, as torch writes them."""

    def __init__(self):
        super().__init__()
        sizes = [3, 5, 4, 3]
        self.layers = torch.nn.ModuleList(
            torch.nn.Linear(a, b, dtype=torch.float64)
            for a, b in zip(sizes, sizes[1:], strict=False)
        )

    def forward(self, inputs, targets, weight):
        for layer in self.layers[:-1]:
            inputs = layer(inputs).tanh()
        error = (self.layers[-1](inputs) - targets).square()
        each = error[:, :2].mean(dim=1) + WEIGHT * error[:, 2]
        return sum(w * e for w, e in zip(weight, each, strict=True)) / max(float(weight.sum()), 1.0)


OBVIOUS = Obvious()


def renamed(params):
    """Returns the parameters of one row by the names of `Obvious`."""
    kinds = "weight", "bias"
    names = {f"{kind}{i}": f"layers.{i}.{kind}" for kind in kinds for i in range(3)}
    own = {names[n]: v for n, v in params.items() if n in names}
    return {n: v.mT if v.dim() == 2 else v for n, v in own.items()}


def row_loss(params, batch, row):
    arrays = (part[row] for part in vars(batch).values())
    return functional_call(OBVIOUS, renamed(params), tuple(arrays))


def adapted_row(params, past, row):
    own = {n: v for n, v in params.items() if not n.startswith(RATE)}
    step = grad(row_loss)(own, past, row)
    return {n: v - params[RATE + n].exp() * step[n] for n, v in own.items()}


def objective(params, past, future):
    rows = range(len(past.inputs))
    losses = [row_loss(adapted_row(params, past, row), future, row) for row in rows]
    return sum(losses) / len(losses)


@pytest.fixture
def batches():
    past, future = draw(4, 6, 1), draw(4, 5, 2)
    past.weight[0] = 0.0  # a trial that has just begun
    return past, future


def test_adapted_model_takes_the_gradient_step_of_autograd(batches):
    params, (past, _) = parameters(), batches
    adapted = DynamicsModel(NETWORK, WEIGHT).adapt(params, past)
    for row in range(4):
        for name, value in adapted_row(params, past, row).items():
            torch.testing.assert_close(adapted[name][row], value, rtol=1e-12, atol=1e-13)
    for name, value in adapted.items():
        assert torch.equal(value[0], params[name])  # nothing is known of this row


def test_meta_gradient_equals_autograd(batches):
    params = parameters()
    expected = grad(objective)(params, *batches)
    found, losses = DynamicsModel(NETWORK, WEIGHT).meta_gradient(params, *batches)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(losses[:, 1].mean(), objective(params, *batches))
    torch.testing.assert_close(losses[0, 0], losses[0, 1])


def test_meta_gradient_equals_finite_differences(batches):
    params, model, h = parameters(), DynamicsModel(NETWORK, WEIGHT), 1e-5
    gradient, _ = model.meta_gradient(params, *batches)
    rng = torch.Generator().manual_seed(3)
    direction = {
        n: torch.randn(v.shape, generator=rng, dtype=torch.float64) for n, v in params.items()
    }

    def loss(size):
        moved = {n: v + size * direction[n] for n, v in params.items()}
        return float(model.meta_gradient(moved, *batches)[1][:, 1].mean())

    predicted = sum(float((gradient[n] * d).sum()) for n, d in direction.items())
    assert predicted == pytest.approx((loss(h) - loss(-h)) / (2 * h), rel=1e-7)


def test_step_sizes_have_no_gradient_unless_they_are_learned(batches):
    params = parameters()
    fixed, _ = DynamicsModel(NETWORK, WEIGHT, learn_rates=False).meta_gradient(params, *batches)
    learned, _ = DynamicsModel(NETWORK, WEIGHT).meta_gradient(params, *batches)
    for name, value in fixed.items():
        assert torch.equal(value, torch.zeros(()) if name.startswith(RATE) else learned[name])


def test_changes_lead_from_one_scaled_state_to_the_next():
    rng = torch.Generator().manual_seed(0)
    state, step = torch.randn(50, 2, generator=rng) * 3.0 + 1.0, torch.randn(50, 2, generator=rng)
    change = step * 0.1 + 0.2
    pairs = (("state", state), ("change", change))
    moments = {name: Moments.initial(2).merge(values) for name, values in pairs}
    scales = Scales.of(moments, 0.5)
    inputs = scales.inputs(state, torch.full((50, 1), 0.25))
    targets = scales.targets(state, state + change)
    expected = (change - change.mean(dim=0)) / change.std(dim=0, correction=0)
    torch.testing.assert_close(targets, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(inputs[:, 2], torch.full((50,), 0.5))
    expected = scales.inputs(state + change, torch.zeros(50, 1))[:, :2]
    found = scales.advance(inputs[:, :2], targets)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_loss_of_a_row_is_the_mean_over_its_transitions():
    output = torch.tensor([[[1.0, 2.0, 3.0], [5.0, 5.0, 5.0], [0.0, 0.0, 1.0]]])
    batch = Transitions(output, torch.zeros_like(output), torch.tensor([[1.0, 0.0, 1.0]]))
    expected = ((1.0 + 4.0) / 2 + 0.7 * 9.0 + 0.0 + 0.7 * 1.0) / 2
    assert math.isclose(
        float(DynamicsModel(NETWORK, WEIGHT).loss(output, batch)), expected, rel_tol=1e-6
    )
