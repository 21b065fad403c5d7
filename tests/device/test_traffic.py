"""The host waits for a GPU a stated number of times in an update, and copies nothing twice."""

from dataclasses import replace

import pytest
import torch
from played_trials import ACTIONS, OBS, play

from metarl.learners.maml.config import MamlConfig
from metarl.learners.maml.maml import Maml
from metarl.learners.rl2.config import Rl2Config
from metarl.learners.rl2.rl2 import Rl2
from metarl.networks.actor_critic import MEMORIES
from metarl.sampling.sequences import Sequences

RL2 = Rl2Config(memory_size=8, hidden_size=4, epochs=3, minibatches=2)
SIZE = (6, 1)
ROWS = 6


def trial_bytes(rollouts):
    return sum(array.nbytes for array in vars(Sequences.of(rollouts)).values())


def measure_rl2(gpu, config, ragged=True):
    """Returns counts of a second update, torch's own report of waits, and the trials' bytes."""
    learner = Rl2(config, OBS, ACTIONS, seed=0, device=gpu.device)
    for number in range(2):  # the first update also merges the first scale, and warms up
        with gpu.traffic.record() as acting:
            rollouts = play(learner, ragged=ragged, size=SIZE, seed=number)
        assert (acting.waits, acting.uploaded, acting.downloaded) == ([], 0, 0)
        context = learner.begin(*SIZE, ())
        with gpu.traffic.record() as counts, gpu.synchronisations() as reported:
            learner.update(context, rollouts, None)
    return counts, reported, trial_bytes(rollouts)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("memory", MEMORIES)
def test_rl2_update_waits_once_a_pass(memory, ragged, gpu):
    config = replace(RL2, memory=memory, value_memory="own")
    counts, reported, _ = measure_rl2(gpu, config, ragged)
    # beside the passes: the states before and after, the ratio, the returns, the check, two metrics
    assert len(counts.waits) <= config.epochs + 7, counts.waits
    assert len(reported) <= config.epochs + 7, [str(warning.message) for warning in reported]


def test_rl2_update_copies_the_trials_once(gpu):
    few, _, size = measure_rl2(gpu, replace(RL2, epochs=1))
    many, _, _ = measure_rl2(gpu, replace(RL2, epochs=4))
    # a pass sends the numbers of its rows, 8 bytes each, and returns 5 float64
    assert many.uploaded - few.uploaded == 3 * 8 * ROWS
    assert many.downloaded - few.downloaded == 3 * 8 * 5
    scales = 3 * 2 * 4 * OBS + 2 * 2 * 4
    assert size <= few.uploaded <= size + scales + 2 * 8 * ROWS


@pytest.mark.parametrize("memory", MEMORIES)
def test_recorded_minibatch_does_not_involve_the_host(memory, gpu):
    config = replace(RL2, memory=memory, value_memory="own", entropy_weight=0.1)
    learner = Rl2(config, OBS, ACTIONS, seed=0, device=gpu.device)
    rollouts = play(learner, ragged=False, size=SIZE)
    learner.update(learner.begin(*SIZE, ()), rollouts, None)
    recordings = learner._gradient._recordings
    assert list(recordings) == [(8, ROWS // 2)]
    with gpu.traffic.record() as counts:
        learner._gradient._gradient.of_all(recordings[8, ROWS // 2].batch)
    assert (counts.waits, counts.uploaded, counts.downloaded) == ([], 0, 0)
    assert not learner._gradient._is_broken


def test_maml_update_waits_ten_times_and_once_a_try(gpu):
    learner = Maml(MamlConfig(hidden_sizes=(5, 4)), OBS, ACTIONS, seed=0, device=gpu.device)
    for number in range(2):  # the first update warms up
        with gpu.traffic.record() as begun:
            context = learner.begin(*SIZE, ())
        rollouts = play(learner, size=SIZE, seed=number)
        with gpu.traffic.record() as adapted:
            context = learner.adapt(context, rollouts[0], ())
        with gpu.traffic.record() as counts, gpu.synchronisations() as reported:
            metrics = learner.update(context, rollouts, None)
    assert len(begun.waits) <= 1 and len(adapted.waits) <= 3
    # the baselines of both rollouts, the ratio, two checks of the gradient, the start of the line
    # search, the norm, two metrics, the check of the new parameters
    most = 10 + metrics["update/line_search_tries"]
    assert len(counts.waits) <= most, counts.waits
    assert len(reported) <= most, [str(warning.message) for warning in reported]
    rollout = rollouts[-1]
    assert counts.uploaded == sum(part.nbytes for part in vars(rollout).values())
    assert counts.downloaded < 200


def test_maml_update_waits_do_not_grow_with_the_solver(gpu):
    numbers = []
    for iterations in (2, 20):
        config = MamlConfig(hidden_sizes=(5, 4), cg_iterations=iterations, cg_damping=1.0)
        learner = Maml(config, OBS, ACTIONS, seed=0, device=gpu.device)
        rollouts = play(learner, size=SIZE)
        context = learner.adapt(learner.begin(*SIZE, ()), rollouts[0], ())
        with gpu.traffic.record() as counts:
            metrics = learner.update(context, rollouts, None)
        numbers.append(len(counts.waits) - metrics["update/line_search_tries"])
    assert numbers[0] == numbers[1]


def test_policy_of_a_gpu_learner_acts_on_the_cpu(gpu):
    learner = Rl2(RL2, OBS, ACTIONS, seed=0, device=gpu.device)
    context = learner.begin(*SIZE, ())
    chosen, _ = learner.act(
        context, torch.zeros(*SIZE, OBS), torch.zeros(*SIZE, ACTIONS), explore=True
    )
    assert chosen.value.device.type == "cpu"
