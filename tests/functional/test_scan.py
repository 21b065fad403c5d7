import pytest
import torch

from metarl.functional.scan import gated_scan, reverse_scan

ROWS, SIZE = 3, 4


def loop(gates):
    """The recurrence, one step after another."""
    state, states = torch.zeros_like(gates[0, :, :SIZE]), []
    for logit, candidate in zip(gates[..., :SIZE], gates[..., SIZE:], strict=True):
        decay = logit.sigmoid()
        state = decay * state + (1.0 - decay) * candidate
        states.append(state)
    return torch.stack(states)


def draw(length, size):
    generator = torch.Generator().manual_seed(length)
    return torch.randn(length, ROWS, size, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 15, 16, 17, 24, 400])
def test_scan_equals_a_loop_with_its_gradient(length):
    gates, cotangent = draw(length, 2 * SIZE).requires_grad_(), draw(length, SIZE)
    states, expected = gated_scan(gates), loop(gates)
    torch.testing.assert_close(states, expected)
    (found,) = torch.autograd.grad(states, [gates], cotangent)
    torch.testing.assert_close(found, torch.autograd.grad(expected, [gates], cotangent)[0])


def test_scan_stays_finite_where_decays_vanish():
    gates = draw(100, 2 * SIZE)
    gates[::7, :, :SIZE] = -200.0  # a quotient of products of decays would divide by zero
    gates.requires_grad_()
    states, expected = gated_scan(gates), loop(gates)
    torch.testing.assert_close(states, expected)
    (found,) = torch.autograd.grad(states.sum(), [gates])
    torch.testing.assert_close(found, torch.autograd.grad(expected.sum(), [gates])[0])


@pytest.mark.parametrize("length", [1, 2, 5, 100])
def test_reverse_scan_equals_a_loop(length):
    decay, inputs = draw(length, SIZE).sigmoid(), draw(length, SIZE)
    expected, state = torch.zeros_like(inputs), torch.zeros_like(inputs[0])
    for t in range(length - 1, -1, -1):
        state = expected[t] = inputs[t] + decay[t] * state
    torch.testing.assert_close(reverse_scan(decay, inputs), expected)
