"""Both ways of the benchmarks run on a GPU and compute the same."""

from contextlib import closing

import pytest
import torch

from benchmarks import rl2, update
from metarl.envs.registry import make


def test_both_ways_of_the_meta_update_agree_on_a_gpu(gpu):
    trial = update.Trial.of(update.SMALL, torch.float64)
    learner = update.build(update.SMALL, 1.0, device=gpu.device, dtype=torch.float64)
    metrics = update.ours(learner, trial)
    scale, kl = update.obvious(trial, threads=1, device=gpu.device)
    assert metrics["update/step_scale"] == scale > 0.0
    assert metrics["kl"] == pytest.approx(kl, rel=1e-6)


def test_rl2_benchmark_updates_on_a_gpu(gpu):
    with closing(make("half-cheetah-dir")) as env:
        problem = rl2.Problem(env, "mingru", rl2.QUICK, device=gpu.device)
        assert problem.update() == 1600.0
    after = problem.learner.state_dict()
    assert int(after["updates"]) == 1
    assert not torch.equal(after["policy/actor.0.weight"], problem.start["policy/actor.0.weight"])
