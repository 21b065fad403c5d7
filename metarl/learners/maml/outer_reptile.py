"""The outer step of Reptile: towards the parameters that the tasks adapt to."""

from __future__ import annotations

from metarl.core.rollout import Params
from metarl.functional.params import total
from metarl.learners.maml.adaptation import Adaptation
from metarl.learners.maml.meta_gradient import measure
from metarl.learners.maml.records import Chunk, OuterStep, Trial


def reptile_step(
    adaptation: Adaptation, params: Params, trial: Trial, num_threads: int = 1
) -> OuterStep:
    """Moves the parameters towards the mean of the adapted ones; no second derivative anywhere.

        theta <- theta + outer_lr * mean_i (theta_i'' - theta)

    theta_i'' is adapted to all rollouts of the trial, also to the last one.

    Source: Nichol et al. 2018 (arXiv:1803.02999).
    """
    config = adaptation.config

    def move(chunk: Chunk) -> Params:
        own = trial.batches_of(chunk)
        last = adaptation.step(params, chunk.points, own).points[-1]
        start = adaptation.start(params, chunk.stop - chunk.start)
        return {n: (last[n].detach() - v).sum(dim=0) for n, v in start.items()}

    sums = trial.map(move, num_threads)
    mean = {n: v / trial.num_tasks for n, v in total(sums).items()}
    learned = {n: v + config.outer_lr * mean[n] for n, v in params.items() if n in mean}
    moved = {**params, **{n: v for n, v in learned.items() if adaptation.learns(n)}}
    moved |= adaptation.policy.distribution.clamp(moved)
    norm = sum(float(v.double().square().sum()) for v in mean.values()) ** 0.5
    measured = measure(adaptation, moved, trial, num_threads)
    metrics = {"kl": measured.kl, "update/gain": measured.gain, "update/gradient_norm": norm}
    return OuterStep(moved, metrics)
