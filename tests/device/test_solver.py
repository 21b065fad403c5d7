"""Conjugate gradients on a GPU, which make all iterations, against those on a CPU."""

import math

import pytest
import torch

from metarl.functional.params import to_cpu
from metarl.functional.trust_region import conjugate_gradient, natural_step

DRAW = torch.Generator().manual_seed(0)
ROOT = torch.randn(12, 12, generator=DRAW, dtype=torch.float64)
MATRICES = {
    "full": ROOT @ ROOT.T + torch.eye(12, dtype=torch.float64),
    "identity": torch.eye(12, dtype=torch.float64),  # solved by the first of ten iterations
    "two values": torch.diag(torch.tensor([1.0, 5.0] * 6, dtype=torch.float64)),
    "negative": -torch.eye(12, dtype=torch.float64),
    "singular": torch.zeros(12, 12, dtype=torch.float64),
    "not a number": torch.full((12, 12), math.nan, dtype=torch.float64),
}
TARGET = torch.randn(12, generator=DRAW, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", MATRICES)
def test_solution_equals_that_of_the_cpu(name, dtype, gpu):
    matrix, target = MATRICES[name].to(dtype), TARGET.to(dtype)
    expected = conjugate_gradient(lambda v: matrix @ v, target, 10)
    own = matrix.to(gpu.device)
    found = conjugate_gradient(lambda v: own @ v, target.to(gpu.device), 10)
    assert found.dtype == dtype and expected.isfinite().all()
    tolerance = 1e-9 if dtype == torch.float64 else 1e-3
    torch.testing.assert_close(found.cpu(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", MATRICES)
def test_step_is_refused_as_on_the_cpu(name, gpu):
    steps = []
    for device in ("cpu", gpu.device):
        matrix, gradient = MATRICES[name].to(device), TARGET.to(device)
        options = {"iterations": 10, "damping": 0.0}
        steps.append(natural_step(lambda v, m=matrix: m @ v, gradient, 0.01, **options))
    expected, found = steps
    assert (found.step is None) == (expected.step is None)
    if expected.step is not None:
        torch.testing.assert_close(found.step.cpu(), expected.step, rtol=1e-8, atol=1e-10)
        assert found.predicted_gain == pytest.approx(expected.predicted_gain, rel=1e-8)


@pytest.mark.parametrize("gradient", [[0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0]])
def test_unusable_gradient_is_refused_with_one_wait(gradient, gpu):
    target = torch.tensor(gradient, dtype=torch.float64).to(gpu.device)
    with gpu.traffic.record() as counts:
        assert natural_step(lambda v: v, target, 0.01, iterations=5, damping=0.1).step is None
    assert len(counts.waits) == 1


def test_values_arrive_on_the_cpu_in_one_transfer_a_dtype(gpu):
    values = {
        "a": torch.arange(6.0).view(2, 3),
        "b": torch.arange(4, dtype=torch.float64).expand(3, 4),
        "c": torch.tensor(7.0),
        "d": torch.ones(2),
    }
    away = {name: value.to(gpu.device) for name, value in values.items() if name != "d"}
    with gpu.traffic.record() as counts:
        found = to_cpu({**away, "d": values["d"]})
    assert len(counts.waits) == 2 and list(found) == list(values) and found["d"] is values["d"]
    for name, value in values.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value)
