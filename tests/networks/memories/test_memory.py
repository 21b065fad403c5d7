import pytest
import torch

from metarl.core.rng import stream
from metarl.networks.actor_critic import MEMORIES, Architecture, MemoryActorCritic
from metarl.networks.distributions import DiagonalGaussian
from metarl.networks.memories.transformer import AttentionMemory

INPUTS, SIZE, ROWS = 5, 16, 3
STEPS = 150  # more than the first capacity of the attention's cache


@pytest.fixture(params=MEMORIES)
def memory(request):
    torch.manual_seed(0)
    return MEMORIES[request.param](INPUTS, SIZE).double()


@pytest.fixture
def inputs():
    return torch.randn(STEPS, ROWS, INPUTS, dtype=torch.float64)


@pytest.fixture
def windowed():
    """A transformer of one layer that attends to 20 steps."""
    torch.manual_seed(0)
    return AttentionMemory(INPUTS, SIZE, num_layers=1, window=20).double()


def double(state):
    return tuple(s.double() if s.is_floating_point() else s for s in state)


def step_through(memory, inputs, alive=None):
    """Features (L, M, H) of one step after another."""
    state, features = double(memory.initial(inputs.shape[1])), []
    for t, x in enumerate(inputs):
        out, after = memory.step(x, state)
        state = after if alive is None else memory.keep(state, after, alive[t])
        features.append(out)
    return torch.stack(features)


@torch.no_grad()
def test_steps_equal_unrolling_the_whole_trial(memory, inputs):
    torch.testing.assert_close(step_through(memory, inputs), memory.unroll(inputs))


@torch.no_grad()
def test_later_inputs_change_no_earlier_features(memory, inputs):
    other = inputs.clone()
    other[100:] = 7.0
    whole, changed = memory.unroll(inputs), memory.unroll(other)
    torch.testing.assert_close(whole[:100], changed[:100])
    assert (whole[100:] - changed[100:]).abs().max() > 1e-3


@torch.no_grad()
def test_features_depend_on_the_first_step(memory, inputs):
    other = inputs.clone()
    other[0] += 1.0
    assert (memory.unroll(inputs)[20] - memory.unroll(other)[20]).abs().max() > 1e-6


@torch.no_grad()
def test_rows_are_independent(memory, inputs):
    alone = memory.unroll(inputs[:, 1:2])
    torch.testing.assert_close(memory.unroll(inputs)[:, 1:2], alone)


@torch.no_grad()
def test_paused_row_continues_as_without_the_pause(memory, inputs):
    alive = torch.ones(STEPS, ROWS, dtype=torch.bool)
    alive[40:60, 1] = False
    together = step_through(memory, inputs, alive)
    without_pause = torch.cat([inputs[:40, 1:2], inputs[60:, 1:2]])
    torch.testing.assert_close(together[60:, 1:2], step_through(memory, without_pause)[40:])
    torch.testing.assert_close(together[:, 0], step_through(memory, inputs)[:, 0])


@torch.no_grad()
def test_state_stays_valid_when_the_trial_continues(memory, inputs):
    state = double(memory.initial(ROWS))
    for x in inputs[:10]:
        _, state = memory.step(x, state)
    first, _ = memory.step(inputs[10], state)
    memory.step(inputs[11], state)
    again, _ = memory.step(inputs[10], state)
    torch.testing.assert_close(first, again)


def assert_state_is_a_value(memory, inputs, length):
    """Two branches from one state against trials from their start; then another one from it."""
    state = double(memory.initial(ROWS))
    for x in inputs[:length]:
        _, state = memory.step(x, state)
    branches = [inputs[length : length + 5], inputs[length : length + 5] + 1.0]
    states, found = [state, state], [[], []]
    for t in range(5):
        for i, branch in enumerate(branches):
            out, states[i] = memory.step(branch[t], states[i])
            found[i].append(out)
    for branch, features in zip(branches, found, strict=True):
        whole = memory.unroll(torch.cat([inputs[:length], branch]))
        torch.testing.assert_close(torch.stack(features), whole[length:])
    again, _ = memory.step(branches[0][0], state)
    torch.testing.assert_close(again, found[0][0])


@torch.no_grad()
@pytest.mark.parametrize("length", [0, 10, 63, 64])
def test_state_of_every_memory_is_a_value(memory, inputs, length):
    assert_state_is_a_value(memory, inputs, length)


@torch.no_grad()
@pytest.mark.parametrize("length", [10, 30])
def test_state_of_a_window_is_a_value(windowed, inputs, length):
    assert_state_is_a_value(windowed, inputs, length)


@torch.no_grad()
def test_windowed_steps_equal_unrolling_with_pauses(windowed, inputs):
    torch.testing.assert_close(step_through(windowed, inputs), windowed.unroll(inputs))
    alive = torch.ones(STEPS, ROWS, dtype=torch.bool)
    alive[15:25, 1] = False
    together = step_through(windowed, inputs, alive)
    without_pause = torch.cat([inputs[:15, 1:2], inputs[25:, 1:2]])
    torch.testing.assert_close(together[25:, 1:2], windowed.unroll(without_pause)[15:])


@torch.no_grad()
def test_window_hides_older_steps_and_bounds_the_cache(windowed, inputs):
    other = inputs.clone()
    other[:50] += 1.0
    whole, changed = windowed.unroll(inputs), windowed.unroll(other)
    torch.testing.assert_close(whole[69:], changed[69:])  # step 69 attends to 50..69
    assert (whole[68] - changed[68]).abs().max() > 1e-6
    state = double(windowed.initial(ROWS))
    for x in inputs:
        _, state = windowed.step(x, state)
    assert state[0].shape[4] == 64  # the first capacity


def test_gradients_reach_the_first_step(memory, inputs):
    inputs.requires_grad_()
    memory.unroll(inputs)[-1, :, 0].sum().backward()
    assert inputs.grad[0].abs().max() > 0


def test_gradients_share_no_memory(memory, inputs):
    """Clipping scales them in place, and would scale a shared one twice."""
    found = torch.autograd.grad(memory.unroll(inputs).sum(), list(memory.parameters()))
    assert len({each.data_ptr() for each in found}) == len(found)


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_truncation_cuts_gradients_and_keeps_values(name, inputs):
    torch.manual_seed(0)
    memory = MEMORIES[name](INPUTS, SIZE).double()
    torch.testing.assert_close(memory.unroll(inputs, 40), memory.unroll(inputs))
    inputs.requires_grad_()
    memory.unroll(inputs, 40)[99].sum().backward()  # the third piece starts at 80
    assert not inputs.grad[:80].any()
    assert (inputs.grad[80:100] != 0).all()


@pytest.mark.parametrize("name", ["mingru", "transformer"])
def test_memory_without_recurrence_rejects_truncation(name, inputs):
    memory = MEMORIES[name](INPUTS, SIZE).double()
    with pytest.raises(ValueError, match="truncation = 10.*trunca"):
        memory.unroll(inputs, 10)


@pytest.mark.parametrize("name", MEMORIES)
def test_initial_parameters_are_orthogonal_and_reproducible(name):
    made = [actor_critic(name, own_value_memory=True) for _ in range(2)]
    for policy in made:
        policy.initialise(stream(1, "init"))
    one, other = (dict(policy.named_parameters()) for policy in made)
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert (one["log_std"] == -0.5).all()
    actor = one["actor.0.weight"]  # (8, 19)
    torch.testing.assert_close(actor @ actor.T, torch.eye(8))
    last = one["actor.2.weight"]  # (2, 8)
    torch.testing.assert_close(last @ last.T, 1e-4 * torch.eye(2))
    if name == "gru":
        for owner in ("memory", "value_memory"):
            for gate in one[f"{owner}.cell.weight_hh_l0"].chunk(3):
                torch.testing.assert_close(gate @ gate.T, torch.eye(16))


# --- memories of the policy and of the value


def actor_critic(name, *, own_value_memory):
    """For observations of 3, actions of 2 and inputs of 7 numbers."""
    architecture = Architecture(name, 16, 8, own_value_memory=own_value_memory)
    return MemoryActorCritic(architecture, DiagonalGaussian(-0.5), obs_size=3, action_size=2)


def modules_reached(policy, output):
    """Modules with a gradient from the sum of the actor's outputs (0) or of the values (1)."""
    inputs = torch.randn(6, 4, 7, generator=torch.Generator().manual_seed(0))
    total = policy.unroll(inputs, inputs[..., :3])[output].sum()
    found = torch.autograd.grad(total, list(policy.parameters()), allow_unused=True)
    names = [name for name, _ in policy.named_parameters()]
    return {
        name.split(".")[0]
        for name, gradient in zip(names, found, strict=True)
        if gradient is not None
    }


@pytest.mark.parametrize("name", MEMORIES)
def test_own_value_memory_is_separate_from_the_policys(name):
    policy = actor_critic(name, own_value_memory=True)
    policy.initialise(stream(1, "init"))
    of_output, of_value = (modules_reached(policy, i) for i in (0, 1))
    assert of_output == {"memory", "actor"}
    assert of_value == {"value_memory", "critic"}


@pytest.mark.parametrize("name", MEMORIES)
def test_shared_memory_learns_from_both_and_is_listed_once(name):
    policy = actor_critic(name, own_value_memory=False)
    policy.initialise(stream(1, "init"))
    of_output, of_value = (modules_reached(policy, i) for i in (0, 1))
    assert of_output == {"memory", "actor"}
    assert of_value == {"memory", "critic"}
    names = [key for key, _ in policy.named_parameters()]
    assert not [key for key in names if key.startswith("value_memory")]


@torch.no_grad()
@pytest.mark.parametrize("name", MEMORIES)
def test_outputs_and_values_come_from_their_own_memories(name):
    policy = actor_critic(name, own_value_memory=True)
    policy.initialise(stream(1, "init"))
    inputs = torch.randn(6, 4, 7)
    obs = inputs[..., :3]
    output, value = policy.unroll(inputs, obs)
    features, value_features = policy.memory.unroll(inputs), policy.value_memory.unroll(inputs)
    assert torch.equal(output, policy.output(features, obs))
    assert torch.equal(value, policy.heads((value_features,), obs)[1])
    assert not torch.equal(value, policy.heads((features,), obs)[1])


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_truncation_cuts_gradients_of_both_memories(name):
    policy = actor_critic(name, own_value_memory=True)
    inputs = torch.randn(8, 2, 7, requires_grad=True)
    for output in (0, 1):
        total = policy.unroll(inputs, inputs[..., :3], 3)[output][5].sum()
        (gradient,) = torch.autograd.grad(total, inputs)
        assert not gradient[:3].any() and (gradient[3:6] != 0).all()
