"""The outer step by TRPO: a natural step through the adaptation, and a line search along it."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.core.machine.parallel import map_chunks
from metarl.core.rollout import Metrics, Params
from metarl.functional.params import flatten, unflatten
from metarl.functional.trust_region import Product, SearchResult, line_search, natural_step
from metarl.learners.maml.adaptation import Adaptation
from metarl.learners.maml.gauss_newton import AdaptedTasks, gauss_newton
from metarl.learners.maml.meta_gradient import meta_gradient, objective
from metarl.learners.maml.records import Chunk, OuterStep, Trial


def describe_step(result: SearchResult, max_kl: float) -> Metrics:
    """Returns the metrics of a line search; those of the gradient are zero."""
    return {
        "kl": result.kl,
        "update/max_kl": max_kl,
        "update/gain": result.gain,
        "update/predicted_gain": 0.0,
        "update/step_scale": result.scale,
        "update/rejected": 0.0,
        "update/line_search_tries": float(result.tried),
        "update/gradient_norm": 0.0,
    }


class TrpoStep:
    """A TRPO step on the return after adaptation.

    Args:
        adaptation: How tasks adapt.
        params: Meta-parameters before the step.
        trial: Rollouts and the policies that sampled them.
        max_kl: Trust region [nats].
        order: Number of the update, see `meta_gradient`.
        num_threads: Threads over tasks; the result does not depend on it.
    """

    def __init__(
        self,
        adaptation: Adaptation,
        params: Params,
        trial: Trial,
        max_kl: float,
        num_threads: int = 1,
        *,
        order: int = 0,
    ):
        self._order = order
        self._adaptation, self._params, self._trial = adaptation, params, trial
        self._max_kl, self._num_threads = max_kl, num_threads
        self._config, self._policy = adaptation.config, adaptation.policy

    def take(self) -> OuterStep:
        """Computes the natural step and searches along it."""
        inputs = self._adaptation, self._params, self._trial, self._num_threads
        outer = meta_gradient(*inputs, order=self._order)
        free = self._free(outer)
        outer = free * outer
        config = self._config
        settings = {"iterations": config.cg_iterations, "damping": config.cg_damping}
        product = self.curvature()
        proposal = natural_step(lambda v: free * product(free * v), outer, self._max_kl, **settings)
        params, result = self._params, SearchResult(0.0, 0.0, 0.0, 0)
        if proposal.step is not None:
            result = self._search(proposal.step)
            if result.scale > 0.0:
                params = self._add_step(proposal.step, result.scale)
        metrics = describe_step(result, self._max_kl)
        metrics["update/predicted_gain"] = proposal.predicted_gain
        metrics["update/rejected"] = float(result.scale == 0.0)
        metrics["update/gradient_norm"] = float(outer.double().norm())
        return OuterStep(params, metrics)

    def curvature(self) -> Product:
        """Returns the Gauss-Newton product of flat vectors (P,), on every stride-th state."""
        # at most a number that fits an index: a stride beyond the end takes the first alone
        stride = max(1, round(min(1.0 / self._config.curvature_fraction, 1e9)))
        # dice couples the steps of an episode, so only whole episodes can be left out
        whole = self._config.surrogate == "dice"

        @torch.no_grad()
        def prepare(chunk: Chunk) -> AdaptedTasks:
            own = [b.subsample(stride, whole_episodes=whole) for b in self._trial.batches_of(chunk)]
            tape = self._adaptation.tape(self._params, chunk.points, own[:-1])
            return AdaptedTasks.of(self._policy, tape, own[-1])

        trial, threads = self._trial, self._num_threads
        adapted: list[AdaptedTasks] = []

        def prepare_all() -> None:
            adapted.extend(map_chunks(prepare, trial.chunks, threads))

        trial.group.gather(prepare_all)  # a failure in one process is one in all
        options = {"num_threads": threads, "group": trial.group}
        return gauss_newton(self._policy, self._params, adapted, trial.num_tasks, **options)

    def _search(self, step: Tensor) -> SearchResult:
        trial = self._trial

        def evaluate(scale: float) -> tuple[float, float]:
            params = self._add_step(step, scale)
            sums = trial.map(
                lambda chunk: objective(self._adaptation, params, trial, chunk), self._num_threads
            )
            parts = zip(*torch.stack(sums).tolist(), strict=True)
            return tuple(sum(c) / trial.num_tasks for c in parts)

        # the objective before the step, where the ratio is 1
        final = trial.batches[-1]
        start = float((final.advantage * final.weight).sum()) / trial.num_tasks
        decay, tries = self._config.line_search_decay, self._config.line_search_steps
        return line_search(evaluate, start, self._max_kl, decay=decay, max_tries=tries)

    def _free(self, ascent: Tensor) -> Tensor:
        """Returns 0 (P,) for parameters that must not move, else 1.

        These are parameters that no update learns, and those at a bound where the direction points
        beyond. They take no part in the step: the natural step would spend its trust region on
        changes that are undone.
        """
        direction = unflatten(ascent, self._params)
        free = {
            n: torch.full_like(v, float(self._adaptation.learns(n)))
            for n, v in self._params.items()
        }
        return flatten(free | self._policy.distribution.can_move(self._params, direction))

    def _add_step(self, step: Tensor, scale: float) -> Params:
        change = unflatten(step, self._params)
        params = {n: v + scale * change[n] for n, v in self._params.items()}
        return {**params, **self._policy.distribution.clamp(params)}
