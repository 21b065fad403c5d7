import torch

from metarl.core.rng import stream
from metarl.networks.hypernetwork import HyperActor

FEATURES, OBS, HIDDEN, ACTIONS = 5, 3, 4, 2


def build():
    actor = HyperActor(FEATURES, OBS, HIDDEN, ACTIONS).double()
    actor.initialise(stream(0, "init"))
    return actor


def test_generated_network_equals_a_loop_over_rows():
    actor = build()
    torch.manual_seed(0)
    actor.generate.weight.data.normal_()
    inputs = torch.randn(6, 7, FEATURES + OBS, dtype=torch.float64)
    found = actor(inputs)
    for t in range(6):
        for m in range(7):
            features, obs = inputs[t, m, :FEATURES], inputs[t, m, FEATURES:]
            flat = actor.generate.weight @ features + actor.generate.bias
            first, flat = flat[: HIDDEN * OBS].view(HIDDEN, OBS), flat[HIDDEN * OBS :]
            bias, flat = flat[:HIDDEN], flat[HIDDEN:]
            second, last = flat[: ACTIONS * HIDDEN].view(ACTIONS, HIDDEN), flat[-ACTIONS:]
            expected = second @ torch.tanh(first @ obs + bias) + last
            torch.testing.assert_close(found[t, m], expected)


def test_first_network_is_the_same_for_all_memories():
    actor = build()
    torch.manual_seed(0)
    inputs = torch.randn(9, FEATURES + OBS, dtype=torch.float64)
    other = inputs.clone()
    other[:, :FEATURES] = 3.0
    assert torch.equal(actor(inputs), actor(other))
    weights = actor.generate.bias[: HIDDEN * OBS].detach().view(HIDDEN, OBS)
    torch.testing.assert_close(weights.T @ weights, torch.eye(OBS, dtype=torch.float64))
    assert 0.0 < float(actor(inputs).detach().abs().max()) < 0.1


def test_memory_changes_the_network_after_a_step():
    actor = build()
    inputs = torch.randn(9, FEATURES + OBS, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(actor(inputs).sum(), [actor.generate.weight])
    assert gradient.abs().max() > 0
