import pytest
import torch

from metarl.functional.scan import linear_scan

ROWS, SIZE = 3, 4


def loop(decay, inputs):
    """The recurrence, one step after another."""
    state, states = torch.zeros_like(inputs[0]), []
    for a, b in zip(decay, inputs, strict=True):
        state = a * state + b
        states.append(state)
    return torch.stack(states)


def draw(length):
    generator = torch.Generator().manual_seed(length)
    shape, double = (length, ROWS, SIZE), {"dtype": torch.float64, "generator": generator}
    return torch.rand(shape, **double), torch.randn(shape, **double), torch.randn(shape, **double)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 15, 16, 17, 24, 400])
def test_scan_equals_a_loop_with_its_gradient(length):
    decay, inputs, cotangent = draw(length)
    decay.requires_grad_()
    inputs.requires_grad_()
    states, expected = linear_scan(decay, inputs), loop(decay, inputs)
    torch.testing.assert_close(states, expected)
    found = torch.autograd.grad(states, [decay, inputs], cotangent)
    for own, other in zip(
        found, torch.autograd.grad(expected, [decay, inputs], cotangent), strict=True
    ):
        torch.testing.assert_close(own, other)


def test_scan_keeps_states_bounded_where_decays_vanish():
    decay, inputs, _ = draw(100)
    decay[::7] = 0.0  # a product of decays would divide by zero
    torch.testing.assert_close(linear_scan(decay, inputs), loop(decay, inputs))
