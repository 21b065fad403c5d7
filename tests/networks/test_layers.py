"""Dense layers against torch's own in double precision."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional

from metarl.networks import layers

SIZES = [(5, 3, 7), (17, 26, 128), (2500, 7, 3), (2500, 3, 7)]
"""(P, I, O): few rows, and sums over several parts of the rows."""


def relative(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


def numbers(*shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("size", SIZES)
def test_linear_has_value_and_gradients_of_torch(size):
    rows, inputs, outputs = size
    own = [numbers(rows, inputs), numbers(outputs, inputs), numbers(outputs)]
    other = [value.double().requires_grad_() for value in own]
    own = [value.requires_grad_() for value in own]
    cotangent = numbers(rows, outputs)
    found, expected = layers.linear(*own), functional.linear(*other)
    assert relative(found.detach().double(), expected.detach()) < 1e-5
    grads = torch.autograd.grad(found, own, cotangent)
    references = torch.autograd.grad(expected, other, cotangent.double())
    for grad, reference in zip(grads, references, strict=True):
        assert grad.is_contiguous()
        assert relative(grad.double(), reference) < 1e-5


def test_linear_keeps_leading_axes():
    inputs, weight = numbers(4, 30, 5), numbers(3, 5)
    found = layers.linear(inputs, weight, None)
    assert found.shape == (4, 30, 3)
    torch.testing.assert_close(found, functional.linear(inputs, weight))


def test_linear_of_a_strided_view_is_the_same_as_of_a_copy():
    inputs, weight = numbers(30, 40, 9)[:, :, 2:7].transpose(0, 1), numbers(3, 5)
    found = layers.linear(inputs, weight, None)
    assert torch.equal(found, layers.linear(inputs.contiguous(), weight, None))


def test_no_rows_give_no_rows():
    weight = numbers(3, 5).requires_grad_()
    found = layers.linear(numbers(0, 5), weight, None)
    assert found.shape == (0, 3)
    assert torch.equal(torch.autograd.grad(found.sum(), weight)[0], torch.zeros(3, 5))


@pytest.mark.parametrize("shape", [(2500, 3, 7), (2500, 7, 3), (4, 3, 7)])
def test_the_gradient_of_a_weight_is_the_sum_of_outer_products(shape):
    rows, outputs, inputs = shape
    grad, values = numbers(rows, outputs), numbers(rows, inputs)
    expected = torch.einsum("po,pi->oi", grad.double(), values.double())
    assert relative(layers.gradient_of_weight(grad, values).double(), expected) < 1e-5


def test_product_is_that_of_matrices():
    left, right = numbers(100, 6), numbers(6, 4)
    expected = left.double() @ right.double()
    assert relative(layers.product(left, right).double(), expected) < 1e-6


def test_tanh_has_value_and_gradient_of_torch():
    x = numbers(40, 6, dtype=torch.float64).t().requires_grad_()
    torch.testing.assert_close(layers.tanh(x), torch.tanh(x), rtol=1e-14, atol=0)
    assert torch.autograd.gradcheck(layers.tanh, x)


def test_products_of_many_shapes_keep_no_kernel_each():
    """Trials of different lengths have other shapes in every minibatch."""
    code = """
import torch
from metarl.networks.layers import linear
weight, bias = torch.randn(256, 64), torch.randn(256)
def size():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6
for rows in range(100, 2000):
    linear(torch.randn(rows, 64), weight, bias)
    if rows == 400:
        before = size()
print(size() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 200.0  # [MB]; one kernel for each shape takes 1,596
