"""Sets of transitions and the losses that tell tasks apart, against loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from metarl.core.errors import ConfigError
from metarl.core.rng import stream
from metarl.core.rollout import Rollout
from metarl.learners.metric.config import MetricConfig
from metarl.learners.metric.embedding import (
    draw_sets,
    find_same,
    metric_loss,
    prototypical_loss,
    read_transitions,
    siamese_loss,
    sum_embeddings,
)
from metarl.learners.metric.metric import Metric


def made_up(lengths, horizon=5, seed=0):
    """A rollout of N tasks x E episodes of the given lengths, which says so in its numbers."""
    lengths = torch.tensor(lengths)
    size, rng = (*lengths.shape, horizon), torch.Generator().manual_seed(seed)
    valid = torch.arange(horizon) < lengths.unsqueeze(-1)
    parts = {name: torch.randn(*size, n, generator=rng) for name, n in (("obs", 3), ("action", 2))}
    zeros = torch.zeros(size)
    return Rollout(
        **parts,
        log_prob=zeros,
        reward=torch.randn(size, generator=rng),
        valid=valid,
        terminated=lengths < horizon,
        truncated=lengths < 0,
        last_obs=torch.randn(*lengths.shape, 3, generator=rng),
    )


def test_transitions_end_with_the_next_observation():
    rollout = made_up([[5, 2], [1, 4]])
    found = read_transitions(rollout)
    for n, e in np.ndindex(2, 2):
        length = int(rollout.valid[n, e].sum())
        for t in range(length):
            after = rollout.last_obs[n, e] if t == length - 1 else rollout.obs[n, e, t + 1]
            reward = rollout.reward[n, e, t].unsqueeze(0)
            whole = torch.cat([rollout.obs[n, e, t], rollout.action[n, e, t], reward, after])
            assert torch.equal(found[n, e, t], whole)


def test_sets_have_valid_transitions_only_and_all_of_them():
    rollout = made_up([[5], [2], [1]])
    inputs, valid = read_transitions(rollout)[:, 0], rollout.valid[:, 0]
    drawn = draw_sets(inputs, valid, 200, stream(0, "sets"))
    for n in range(3):
        own = {tuple(row.tolist()) for row in inputs[n][valid[n]]}
        assert {tuple(row.tolist()) for row in drawn[n]} == own


@pytest.mark.parametrize("tasks", [[0, 1, 2, 3], [5, 7, 5, 2], [1, 1, 1, 1]])
def test_losses_equal_loops_over_pairs(tasks):
    """Rows of one task are a pair of the same, whichever rows they are."""
    rng = torch.Generator().manual_seed(0)
    query, prototype = torch.randn(2, 4, 3, generator=rng).double()
    square = [[float((q - c) @ (q - c)) for c in prototype] for q in query]
    log_prob = []
    for i in range(4):
        weight = [np.exp(-each / 0.7) for each in square[i]]
        own = sum(weight[j] for j in range(4) if tasks[i] == tasks[j])
        log_prob.append(np.log(own / sum(weight)))
    same = find_same(np.array(tasks, dtype=float)[:, None])
    prototypical = prototypical_loss(query, prototype, same, 0.7)
    assert float(prototypical) == pytest.approx(-np.mean(log_prob))
    pairs = [(i, j) for i in range(4) for j in range(4)]
    together = np.mean([square[i][j] for i, j in pairs if tasks[i] == tasks[j]])
    apart = [1 / (square[i][j] + 0.1) for i, j in pairs if tasks[i] != tasks[j]]
    siamese = siamese_loss(query, prototype, same, 0.5)
    assert float(siamese) == pytest.approx(together + 0.5 * np.mean(apart or [0.0]))
    config = MetricConfig(loss="siamese", repulsion=0.5)
    assert torch.equal(metric_loss(config, query, prototype, same), siamese)
    config = MetricConfig(temperature=0.7)
    assert torch.equal(metric_loss(config, query, prototype, same), prototypical)


def test_losses_of_one_task_are_finite():
    one, same = torch.zeros(1, 3), torch.ones(1, 1, dtype=torch.bool)
    losses = prototypical_loss(one, one, same, 1.0), siamese_loss(one, one, same, 1.0)
    assert losses == (0.0, 0.0)


def test_same_tasks_have_all_numbers_in_common():
    tasks = np.array([[1.0, 2.0], [1.0, 3.0], [1.0, 2.0]])
    found = find_same(tasks).tolist()
    assert found == [[True, False, True], [False, True, False], [True, False, True]]
    assert find_same(np.empty((2, 0))).all()


def build(**settings):
    return Metric(replace(MetricConfig(hidden_size=8), **settings), 3, 2, seed=0)


def test_embedding_is_the_mean_over_all_rollouts_so_far():
    learner = build()
    rollouts = [made_up([[5, 2], [0, 0]]), made_up([[1, 4], [0, 3]], seed=1)]
    context = learner.begin(2, 2, ())
    assert not context.embedding.any()
    for k, rollout in enumerate(rollouts):
        context = learner.adapt(context, rollout, ())
        encoder = learner._state.acting.encoder
        for n in range(2):
            steps = [read_transitions(r)[n][r.valid[n]] for r in rollouts[: k + 1]]
            with torch.no_grad():
                each = encoder(torch.cat(steps).clamp(-10.0, 10.0))
            expected = each.mean(dim=0) if len(each) else torch.zeros(16)
            torch.testing.assert_close(context.embedding[n], expected)
    assert len(context.previous) == 2


def test_sum_leaves_invalid_transitions_out():
    rollout = made_up([[2, 0]])
    inputs = read_transitions(rollout).clone()
    inputs[~rollout.valid] = torch.nan
    total, count = sum_embeddings(lambda x: x, inputs, rollout.valid)
    torch.testing.assert_close(total[0], inputs[0, 0, :2].sum(dim=0))
    assert count.tolist() == [[2]]


@pytest.mark.parametrize("loss", ["prototypical", "siamese"])
def test_update_trains_encoder_and_policy_by_their_own_losses(loss):
    """No gradient of the policy reaches the encoder, whose parameters Adam of the policy lacks."""
    learner = build(loss=loss)
    parts = {
        name: {p for group in each.param_groups for p in group["params"]}
        for name, each in learner._state.adams.items()
    }
    assert parts["policy"].isdisjoint(parts["encoder"])
    assert parts["encoder"] == set(learner._state.network.encoder.parameters())
    assert parts["policy"] == set(learner._state.network.policy.parameters())


@pytest.mark.parametrize("loss", ["prototypical", "siamese"])
def test_copies_of_a_task_are_not_told_apart(loss):
    """A meta-batch of two tasks, four times each, which the rewards tell apart: +1 and -1."""
    tasks = np.tile([[1.0], [-1.0]], (4, 1))
    learner = build(loss=loss, encoder_lr=1e-2, encoder_halving=0, encoder_steps=100)
    reward = torch.from_numpy(tasks).float().unsqueeze(-1).repeat(1, 2, 5)
    rollouts = [replace(made_up([[5, 5]] * 8, seed=k), reward=reward) for k in range(2)]
    metrics = [learner._train_encoder([rollout], find_same(tasks)) for rollout in rollouts][-1]
    assert metrics["update/encoder_hits"] > 0.95


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="learner.loss = 'x': must be prototypical or siamese"):
        MetricConfig(loss="x")
    with pytest.raises(ConfigError, match="learner.temperature = 0.0: must be a finite number > 0"):
        MetricConfig(temperature=0.0)
