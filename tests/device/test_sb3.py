"""Baselines of Stable-Baselines3 on a GPU: their updates, and their states on another device.

SB3 acts on its device with that device's random numbers, so whole iterations cannot be compared.
An update from the same experience can.
"""

import copy

import numpy as np
import pytest
import torch

pytest.importorskip("sb3_contrib", reason="Stable-Baselines3 is not installed")

from baseline_bench import CASES, Bench, assert_same, state


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request, monkeypatch):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"no GPU here: torch {torch.__version__} sees none")
    # as in an LSTM of our own: TF32 would make errors of 1e-3
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return request.param


class Update:
    """The experience and the state before the first update of a baseline on the CPU."""

    def __init__(self, name):
        self.bench = Bench(name)
        model = self.bench.learner._members[0].model
        train = model.train

        def recorded():
            if not hasattr(self, "buffer"):
                self.buffer = copy.deepcopy(model.rollout_buffer)
                self.before = self.bench.learner._members[0].state_dict()
                self.numbers = np.random.get_state()
            train()

        model.train = recorded
        self.bench.iterate(range(1))

    def repeat(self, name, device, noise=0.0):
        """Makes the update on a device, from parameters with relative noise; returns the state."""
        member = Bench(name, device=device).learner._members[0]
        draw = torch.Generator().manual_seed(0)
        state = {
            key: value * (1.0 + noise * torch.randn(value.shape, generator=draw))
            if key.startswith("policy/")
            else value
            for key, value in self.before.items()
        }
        member.load_state_dict(state)
        member.model.rollout_buffer = copy.deepcopy(self.buffer)
        member.model.rollout_buffer.device = member.model.device
        before = np.random.get_state()
        np.random.set_state(self.numbers)
        try:
            member.model.train()
        finally:
            np.random.set_state(before)
        return {k: v for k, v in member.state_dict().items() if k.startswith("policy/")}


def largest_difference(one, other):
    return max(float((one[key] - other[key]).abs().max()) for key in one)


@pytest.mark.parametrize("name", CASES)
def test_update_equals_the_cpu_update(name, device):
    update = Update(name)
    expected = update.repeat(name, "cpu")
    before = {key: update.before[key] for key in expected}
    assert largest_difference(expected, before) > 1e-4
    # an update in float32 amplifies rounding; by how much, a disturbance of that size shows
    sensitivity = largest_difference(expected, update.repeat(name, "cpu", noise=6e-8))
    found = update.repeat(name, device)
    assert largest_difference(found, expected) <= 30.0 * sensitivity + 1e-6


@pytest.mark.parametrize("name", CASES)
def test_state_moves_between_devices_bit_for_bit(name, device):
    one, other = Bench(name, device=device), Bench(name)
    one.iterate(range(1))
    other.learner.load_state_dict(state(one))
    assert_same(state(one), state(other))
    other.iterate(range(1, 2))
    one.learner.load_state_dict(state(other))
    assert_same(state(one), state(other))
    one.iterate(range(2, 3))
