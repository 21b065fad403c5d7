"""The unrolled recurrence against torch's own network and its autograd."""

import pytest
import torch

from metarl.networks.memories.recurrence import unroll_gru

INPUTS, SIZE, ROWS = 5, 8, 3


@pytest.mark.parametrize("steps", [1, 2, 37])
def test_gru_equals_torchs_with_all_gradients(steps):
    torch.manual_seed(steps)
    cell = torch.nn.GRU(INPUTS, SIZE).double()
    double = {"dtype": torch.float64, "requires_grad": True}
    inputs, hidden = torch.randn(steps, ROWS, INPUTS, **double), torch.randn(ROWS, SIZE, **double)
    weights = list(cell.parameters())
    states, expected = unroll_gru(inputs, hidden, *weights), cell(inputs, hidden.unsqueeze(0))[0]
    torch.testing.assert_close(states, expected)
    cotangent = torch.randn_like(expected)
    arguments = [inputs, hidden, *weights]
    found = torch.autograd.grad(states, arguments, cotangent)
    for own, other in zip(found, torch.autograd.grad(expected, arguments, cotangent), strict=True):
        torch.testing.assert_close(own, other)


def test_gru_gradient_can_be_taken_twice_from_one_graph():
    torch.manual_seed(0)
    cell = torch.nn.GRU(INPUTS, SIZE).double()
    weights = list(cell.parameters())
    inputs = torch.randn(20, ROWS, INPUTS, dtype=torch.float64)
    states = unroll_gru(inputs, torch.zeros(ROWS, SIZE, dtype=torch.float64), *weights)
    first, again = (
        torch.autograd.grad(states.square().sum(), weights, retain_graph=True) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
