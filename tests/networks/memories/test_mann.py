import pytest
import torch
from torch.nn.functional import softplus

from metarl.networks.memories.mann import DECAY, EMPTY, MannMemory

INPUTS, SIZE, STEPS, ROWS = 3, 6, 12, 2
SIZES = {"num_slots": 5, "width": 3, "num_heads": 2}
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def memory_of(dtype=torch.float64):
    torch.manual_seed(0)
    memory = MannMemory(INPUTS, SIZE, **SIZES).to(dtype)
    for value in memory.parameters():
        value.data.mul_(3.0)  # so that heads differ
    return memory


def inputs_of(dtype=torch.float64):
    rng = torch.Generator().manual_seed(1)
    return torch.randn(STEPS, ROWS, INPUTS, generator=rng, dtype=dtype)


def slow_unroll(memory, inputs):
    """Runs one trial (L, I), head by head and slot by slot, with torch's cell of an LSTM."""
    cell = torch.nn.LSTMCell(memory.cell.input_size, SIZE, dtype=inputs.dtype)
    own = dict(zip(NAMES, memory.cell.parameters(), strict=True))
    state = torch.zeros(1, SIZE).to(inputs), torch.zeros(1, SIZE).to(inputs)
    slots = [torch.full((3,), EMPTY, dtype=inputs.dtype) for _ in range(5)]
    usage, reading, read, features = [0.0] * 5, [[0.0] * 5] * 2, torch.zeros(6).to(inputs), []
    for x in inputs:
        row = torch.cat([x, read]).unsqueeze(0)
        state = torch.func.functional_call(cell, own, (row, state))
        heads = (memory.heads.weight @ state[0][0] + memory.heads.bias).view(2, 5)
        free = sorted(range(5), key=lambda j: torch.as_tensor(usage[j]).item())[:2]
        slots = [0.0 * s if j in free else s for j, s in enumerate(slots)]
        usage = [DECAY * u for u in usage]
        for r in range(2):
            key, gate = heads[r, :3].tanh(), heads[r, 3].sigmoid()
            for j in range(5):
                write = gate * reading[r][j] + ((1.0 - gate) if j == free[r] else 0.0)
                slots[j] = slots[j] + write * key
                usage[j] = usage[j] + write
        reading, reads = [], []
        for r in range(2):
            key, strength = heads[r, :3].tanh(), 1.0 + softplus(heads[r, 4])
            cosines = [key @ s / key.norm() / s.norm().clamp(min=1e-6) for s in slots]
            weights = (strength * torch.stack(cosines)).softmax(dim=0)
            reads.append(sum(w * s for w, s in zip(weights, slots, strict=True)))
            usage = [u + w for u, w in zip(usage, weights, strict=True)]
            reading.append(list(weights))
        read = torch.cat(reads)
        features.append(state[0][0] + memory.read.weight @ read)
    return torch.stack(features)


def test_features_and_gradients_equal_a_loop_over_slots():
    memory, inputs = memory_of(), inputs_of().requires_grad_()
    fast = memory.unroll(inputs)
    slow = torch.stack([slow_unroll(memory, inputs[:, i]) for i in range(ROWS)], dim=1)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)
    values = [inputs, *memory.parameters()]
    weight = torch.randn(fast.shape, generator=torch.Generator().manual_seed(2), dtype=fast.dtype)
    found = [torch.autograd.grad((each * weight).sum(), values) for each in (fast, slow)]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
        assert one.any()


def test_gradients_by_hand_equal_those_of_autograd():
    """Over 40 steps, in which every slot is emptied several times, as a GPU computes them."""
    memory = memory_of()
    inputs = torch.randn(40, 4, INPUTS, generator=torch.Generator().manual_seed(4)).double()
    values, state = [inputs.requires_grad_(), *memory.parameters()], memory.initial(4)
    ways = memory._unroll_by_hand, memory._unroll_by_autograd
    found = [way(memory._doubles(), inputs, state) for way in ways]
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-10, atol=1e-12)
    sums = [features.square().sum() for features, _ in found]
    gradients = [torch.autograd.grad(total, values) for total in sums]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_gradient_equals_finite_differences():
    memory = memory_of()
    inputs = inputs_of().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: memory.unroll(x)[-1], inputs)


@torch.no_grad()
def test_single_precision_parameters_are_computed_in_double():
    memory, inputs = memory_of(torch.float32), inputs_of(torch.float32)
    expected = memory_of().unroll(inputs.double())
    features = memory.unroll(inputs)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, expected.float(), rtol=1e-5, atol=1e-6)
    state = memory.initial(ROWS)
    for t, x in enumerate(inputs):
        found, state = memory.step(x, state)
        torch.testing.assert_close(found, features[t], rtol=2e-7, atol=1e-12)
    assert all(part.dtype == torch.float64 for part in state)


@torch.no_grad()
def test_long_trial_is_recomputed_in_slices_to_double_precision():
    """The same slots are chosen for any number of rows: their usage never ties by rounding."""
    torch.manual_seed(3)
    memory, inputs = MannMemory(INPUTS, 32), torch.randn(600, 24, INPUTS)
    together = memory.unroll(inputs)
    for rows in (slice(0, 1), slice(1, 8), slice(8, 24)):
        alone = memory.unroll(inputs[:, rows])
        torch.testing.assert_close(together[:, rows], alone, rtol=1e-6, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("step", [0, 7])
def test_a_shut_gate_writes_to_the_least_used_slots(step):
    memory = memory_of()
    for r in range(2):
        memory.heads.weight[5 * r + 3] = 0.0
        memory.heads.bias[5 * r + 3] = -60.0
    state, inputs = memory.initial(ROWS), inputs_of()
    states = [tuple(part.double() for part in state)]
    for x in inputs[: step + 1]:
        states.append(memory.step(x, states[-1])[1])
    before, after = (each[2].view(ROWS, 5, 3) for each in states[-2:])
    least = states[-2][3].argsort(dim=1, stable=True)[:, :2]
    changed = ((before - after).abs() > 1e-12).any(dim=2)
    expected = torch.zeros(ROWS, 5, dtype=torch.bool).scatter_(1, least, True)
    assert torch.equal(changed, expected)
