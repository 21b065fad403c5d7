"""The buffer of trials."""

import numpy as np
import pytest
import torch
from varibad_bench import build, collect

from metarl.learners.varibad.trial_buffer import TrialBuffer
from metarl.sampling.sequences import Sequences


def trials(iteration=0, num_tasks=6, **options):
    rollouts, *_ = collect(build(), iteration, num_tasks=num_tasks, **options)
    return rollouts, TrialBuffer.of(rollouts)


def test_trials_equal_a_loop_over_episodes():
    rollouts, found = trials(eventful=True)
    assert any(bool(r.terminated.any()) for r in rollouts)
    assert any(bool(r.truncated.any()) for r in rollouts)
    for row, (n, e) in enumerate(np.ndindex(6, 2)):
        place = 0
        for number, rollout in enumerate(rollouts):
            count = int(rollout.valid[n, e].sum())
            for t in range(count):
                is_last = t == count - 1
                after = rollout.last_obs[n, e] if is_last else rollout.obs[n, e, t + 1]
                assert torch.equal(found.next_obs[row, place], after)
                assert torch.equal(found.obs[row, place], rollout.obs[n, e, t])
                assert torch.equal(found.action[row, place], rollout.action[n, e, t])
                assert found.reward[row, place] == rollout.reward[n, e, t]
                assert bool(found.valid[row, place]) and bool(found.acted[row, place])
                assert bool(found.first[row, place]) == (number > 0 and t == 0)
                place += 1
            place += int(rollout.truncated[n, e])
        assert int(found.lengths[row]) == place and not found.obs[row, place:].any()


def test_inputs_of_the_memory_are_those_of_acting():
    rollouts, found = trials(eventful=True)
    expected, acted = Sequences.of(rollouts).previous(), Sequences.of(rollouts).acted
    assert torch.equal(found.previous()[acted], expected[acted])


def test_oldest_trials_leave_the_buffer():
    buffer = TrialBuffer.empty(20, 2, 1)
    assert buffer.count == 0
    parts = [trials(i)[1] for i in range(3)]
    for part in parts:
        buffer = buffer.append(part)
    assert buffer.count == 20 and buffer.acted.shape == (20, 8)
    whole = torch.cat([part.obs for part in parts])[-20:]
    assert torch.equal(buffer.obs, whole)
    assert torch.equal(buffer.rows(torch.tensor([19, 0])).obs, whole[[19, 0]])


def test_rows_of_a_buffer_that_is_not_full_are_its_trials():
    _, part = trials(num_tasks=2)
    buffer = TrialBuffer.empty(20, 2, 1).append(part)
    assert buffer.count == 4
    assert torch.equal(buffer.rows(torch.arange(4)).reward, part.reward)


def test_trials_of_other_lengths_keep_their_steps():
    _, short = trials(num_adaptations=0)
    _, long = trials(num_adaptations=1)
    buffer = TrialBuffer.empty(30, 2, 1)
    for part in (long, short, long):
        buffer = buffer.append(part)
    rows = buffer.rows(torch.arange(buffer.count)[-24:-12])
    assert rows.acted.shape == (12, 4) and torch.equal(rows.obs, short.obs)


def test_state_of_other_trials_is_rejected():
    _, part = trials()
    buffer = TrialBuffer.empty(20, 2, 1)
    full = buffer.append(part)
    buffer.check(full.state())
    for other in (TrialBuffer.empty(21, 2, 1), TrialBuffer.empty(20, 3, 1)):
        with pytest.raises(ValueError, match="buffer/obs.* is of shape"):
            buffer.check(other.state())
    with pytest.raises(ValueError, match="buffer/valid.* is of shape"):
        buffer.check({**full.state(), "buffer/valid": full.valid[:, :3]})
