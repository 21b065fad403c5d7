"""The simulated GPU refuses and counts what a real one does."""

import pytest
import torch
from host_traffic import SIMULATED, SimulatedGpu
from torch import nn


@pytest.fixture
def away():
    """A tensor on a GPU, and the counter."""
    with SimulatedGpu() as traffic:
        yield torch.arange(6.0).to(SIMULATED), traffic


def test_tensors_of_two_devices_do_not_mix(away):
    with pytest.raises(RuntimeError, match="same device"):
        away[0] + torch.ones(6)
    with pytest.raises((TypeError, RuntimeError), match="numpy"):
        away[0].numpy()
    assert torch.equal((away[0] + torch.tensor(1.0)).cpu(), torch.arange(6.0) + 1.0)


def test_gradients_stay_on_the_gpu_and_are_right(away):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))
    expected = torch.autograd.grad(network(torch.arange(6.0)).sum(), network.parameters())
    network.to(SIMULATED)
    found = torch.autograd.grad(network(away[0]).sum(), network.parameters())
    for value, other in zip(found, expected, strict=True):
        assert value.device == SIMULATED
        assert torch.equal(value.cpu(), other)


WAITS = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x[0]),
    "condition": lambda x: bool((x > 1.0).any()),
    "tolist": lambda x: x.tolist(),
    "download": lambda x: x.cpu(),
    "mask": lambda x: x[x > 2.0],
    "nonzero": lambda x: x.nonzero(),
    "upload": lambda x: torch.ones(3).to(x.device),
    "assigned upload": lambda x: x.copy_(torch.ones(6)),
    "index of the CPU": lambda x: x[torch.tensor([0, 2])],
}
FREE = {
    "arithmetic": lambda x: (x * 2.0 + 1.0).sum(),
    "index": lambda x: x[x.argsort()[:2]],
    "slice": lambda x: x[1:3].add_(1.0),
    "number": lambda x: x.fill_(3.0),
    "upload without waiting": lambda x: torch.ones(3).to(x.device, non_blocking=True),
    "new tensor": lambda x: torch.zeros(3, device=x.device),
    "change of type": lambda x: x.double(),
    "on the CPU": lambda x: float(torch.ones(3).sum()),
}


@pytest.mark.parametrize("name", [*WAITS, *FREE])
def test_operation_waits_as_on_a_gpu(name, away):
    with away[1].record() as counts:
        (WAITS | FREE)[name](away[0])
    assert len(counts.waits) == (name in WAITS), counts.waits


def test_copies_are_counted_in_bytes(away):
    with away[1].record() as counts:
        torch.ones(3).to(SIMULATED, non_blocking=True)
        away[0].double().cpu()
    assert (counts.uploaded, counts.downloaded) == (12, 48)


def test_full_gpu_allows_only_what_needs_no_memory(away):
    x, traffic = away
    traffic.is_full = True
    x[2:].mul_(2.0)
    x.copy_(x.cpu())
    with pytest.raises(torch.OutOfMemoryError):
        x + 1.0
