import torch

from metarl.core.rollout import Rollout
from metarl.sampling.sequences import Sequences

# 2 tasks x 1 episode x 3 steps, 2 rollouts. Row 0 falls after 2 steps, and fails in step 1 of the
# second episode; row 1 reaches the horizon in both. Every number names (rollout, row, step).


def rollout(k, lengths, truncated):
    name = torch.tensor([[[100 * k + 10 * row + t for t in range(3)]] for row in range(2)])
    length = torch.tensor(lengths).view(2, 1)
    valid = torch.arange(3) < length.unsqueeze(-1)
    number = torch.where(valid, name, 0).float() + valid  # 0 at invalid steps
    return Rollout(
        obs=torch.stack([name + 1.0, name + 1.5], dim=-1),
        action=number.unsqueeze(-1),
        log_prob=-number,
        reward=1000 * number,
        valid=valid,
        terminated=torch.tensor([[k == 0], [False]]),
        truncated=torch.tensor(truncated).view(2, 1),
        last_obs=torch.zeros(2, 1, 2),
    )


TRIAL = [rollout(0, [2, 3], [False, False]), rollout(1, [1, 3], [True, False])]


def test_later_episodes_follow_without_gaps():
    steps = Sequences.of(TRIAL)
    assert steps.valid.shape == (6, 2)
    assert steps.acted[:, 0].tolist() == [True, True, True, True, False, False]
    assert steps.acted[:, 1].all() and steps.valid[:, 1].all()
    # the policy acted in the step of the fault, so its observation counts
    assert steps.valid[:, 0].tolist() == [True, True, True, False, False, False]
    assert steps.obs[:4, 0, 0].tolist() == [1.0, 2.0, 101.0, 102.0]
    assert steps.action[:3, 0, 0].tolist() == [1.0, 2.0, 101.0]
    assert steps.action[:, 1, 0].tolist() == [11.0, 12.0, 13.0, 111.0, 112.0, 113.0]
    assert torch.equal(steps.log_prob, -steps.action[..., 0])


def test_terminal_step_is_the_last_before_a_fall():
    steps = Sequences.of(TRIAL)
    assert steps.terminal[:, 0].tolist() == [False, True, False, False, False, False]
    assert not steps.terminal[:, 1].any()  # the horizon is no fall


def test_memory_inputs_are_the_previous_step_and_done():
    inputs = Sequences.of(TRIAL).previous()
    assert inputs[:, 1, 0].tolist() == [0.0, 11.0, 12.0, 13.0, 111.0, 112.0]
    assert inputs[:, 1, 1].tolist() == [0.0, 11e3, 12e3, 13e3, 111e3, 112e3]  # raw rewards
    assert inputs[:, 1, 2].tolist() == [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert inputs[:4, 0, 0].tolist() == [0.0, 1.0, 2.0, 101.0]
    assert inputs[:4, 0, 2].tolist() == [0.0, 0.0, 1.0, 0.0]


def test_rows_selects_from_every_array():
    steps = Sequences.of(TRIAL)
    chosen = steps.rows(torch.tensor([1, 1]))
    assert torch.equal(chosen.obs, steps.obs[:, [1, 1]])
    assert torch.equal(chosen.first, steps.first[:, [1, 1]])
    assert chosen.action.shape == (6, 2, 1)


def test_whole_episodes_are_joined_in_order():
    whole = [rollout(k, [3, 3], [False, False]) for k in range(3)]
    steps = Sequences.of(whole)
    expected = torch.cat([r.obs.flatten(0, 1).transpose(0, 1) for r in whole])
    assert torch.equal(steps.obs, expected)
    assert steps.first[:, 0].nonzero().flatten().tolist() == [3, 6]
