"""MAML with TRPO as the outer optimiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from metarl.core.learner import TaskRngs
from metarl.core.parallel import map_chunks
from metarl.core.rng import stream
from metarl.core.rollout import Action, Feedback, Metrics, Params, Rollout
from metarl.functional.advantages import advantages
from metarl.functional.params import (
    check_finite,
    check_gradient,
    check_state,
    flatten,
    repeat,
    to_cpu,
    unflatten,
)
from metarl.functional.ppo import check_ratio
from metarl.functional.running_moments import Moments, normalize
from metarl.functional.trust_region import Product, SearchResult, line_search, natural_step
from metarl.learners.maml.config import MamlTrpoConfig
from metarl.learners.maml.gauss_newton import AdaptedTasks, gauss_newton
from metarl.learners.maml.inner_loop import Tape, gradient, inner_steps, linearise
from metarl.learners.maml.records import Chunk, MamlContext, OuterStep
from metarl.learners.maml.surrogates import Batch, check_tasks
from metarl.networks.distributions import build_distribution, clamp_
from metarl.networks.module_network import build_network
from metarl.networks.policies import MLPPolicy, Network


class MamlTrpo:
    """Meta-learns initial parameters that a few gradient steps adapt to a new task.

    Args:
        config: Settings.
        obs_size: S.
        action_size: A.
        seed: Seed of the initial parameters.
        device: Where adaptation and updates run; acting always runs on the CPU.
        num_threads: Threads over tasks on the CPU; results do not depend on it.
        discrete: Actions are one-hot rows of A alternatives.
        network: Of the policy, in place of the one that the config describes.

    Source: Finn et al. 2017 (arXiv:1703.03400). Differences:

    * The inner loss is the likelihood ratio to the stored log-probabilities (`surrogate_loss`),
      whose second derivative gives an unbiased meta-gradient; that of log pi * A does not.
    * The curvature is a Gauss-Newton product (`gauss_newton`) on a fraction of the states, not a
      double backward pass through the KL divergence.
    * Advantages are standardised within a task; constant ones become zeros.
    * An episode whose simulation failed is cut at the step before, and its return is left out of
      the baseline's fit.
    """

    pools_episodes = True
    """An adaptation learns from all E episodes of a task."""

    def __init__(
        self,
        config: MamlTrpoConfig,
        obs_size: int,
        action_size: int,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        num_threads: int = 1,
        discrete: bool = False,
        network: Network | None = None,
    ):
        self.config = config
        log_std = config.initial_log_std, config.min_log_std
        distribution = build_distribution(discrete, *log_std)
        layers = config.hidden_sizes, config.activation, config.layer_norm
        network = network or build_network(obs_size, action_size, *layers)
        self.policy = MLPPolicy(network, distribution)
        initial = self.policy.initial(stream(seed, "init"), config.output_gain)
        self.device = torch.device(device)
        self._num_threads = num_threads if self.device.type == "cpu" else 1
        self.params: Params = {n: v.to(self.device) for n, v in initial.items()}
        self.updates = 0
        self._moments = Moments.initial(obs_size) if config.normalize_obs else None
        self._scale = self._moments.scale() if self._moments else None

    def begin(self, num_tasks: int, num_episodes: int, rngs: TaskRngs) -> MamlContext:
        """Returns the context before any experience: theta for every task."""
        del num_episodes, rngs
        return self._context(repeat(self.params, num_tasks))

    def act(
        self,
        context: MamlContext,
        obs: Tensor,
        noise: Tensor,
        feedback: Feedback | None = None,
        *,
        explore: bool,
    ) -> tuple[Action, MamlContext]:
        """Samples actions (N, E, A) for obs (N, E, S), or takes the mode; keeps the context."""
        del feedback
        distribution = self.policy.distribution
        output = self.policy.network.outputs(context.acting, normalize(obs, self._scale))
        if not explore:
            return Action(distribution.mode(output), torch.zeros(output.shape[:2])), context
        return Action(*distribution.sample_precomputed(context.acting, output, noise)), context

    def adapt(self, context: MamlContext, rollout: Rollout, rngs: TaskRngs) -> MamlContext:
        """Takes one gradient step on every task.

        Raises:
            FloatingPointError: A gradient or a result is not finite; names task and parameter.
            ValueError: A task has no valid step.
        """
        del rngs
        batch, explained = self._batch(rollout)
        k = len(context.batches)
        step_size = self.step_sizes(k + 1)[-1]

        def step(bounds: tuple[int, int]) -> Tape:
            params = {n: v[slice(*bounds)] for n, v in context.params.items()}
            own = [batch.slice_tasks(*bounds)]
            tape = inner_steps(self.policy, self.config.surrogate, params, own, [step_size])
            for step_gradient in tape.gradients:
                check_gradient(step_gradient, bounds[0])
            return tape

        tapes = map_chunks(step, self._bounds(len(batch.obs)), self._num_threads)
        last = [tape.points[-1] for tape in tapes]
        adapted = {n: torch.cat([point[n].detach() for point in last]) for n in context.params}
        check_finite(adapted, 0, f"{{}} is not finite after adapting to rollout {k}")
        return self._context(
            adapted,
            points=(*context.points, context.params),
            batches=(*context.batches, batch),
            explained=(*context.explained, explained),
        )

    def update(
        self, context: MamlContext, rollouts: Sequence[Rollout], tasks: np.ndarray
    ) -> Metrics:
        """Takes a TRPO step on the return after adaptation, differentiated through the adaptation.

        With normalize_obs the first update only measures the scale of observations: the first scale
        changed the policy of half-cheetah-dir by 1.3 nats, the second one by 0.005.

        Raises:
            FloatingPointError: A gradient is not finite, or the recomputed policy is not the one
                that sampled. Like any exception, it leaves the learner unchanged.
        """
        del tasks
        final, explained = self._batch(rollouts[-1])
        batches = (*context.batches, final)
        points = (*context.points, context.params)
        chunks = map_chunks(
            lambda bounds: self._chunk(bounds, points, final),
            self._bounds(len(final.obs)),
            self._num_threads,
        )
        error = self._check_ratio(chunks, final)
        if self._moments and not self._moments.count:
            step = OuterStep(self.params)  # a step now would be one of a policy on another scale
        else:
            step = self._outer_step(chunks, batches)
        result, params = step.result, step.params
        moments = self._merge_obs(rollouts)
        metrics = {
            "kl": result.kl,
            "update/max_kl": self.max_kl(),
            "update/gain": result.gain,
            "update/predicted_gain": step.predicted_gain,
            "update/step_scale": result.scale,
            "update/rejected": float(step.is_rejected),
            "update/line_search_tries": float(result.tried),
            "update/gradient_norm": step.gradient_norm,
            "update/ratio_error": error,
            **self._distribution_metrics(params, context.params),
            "baseline/explained_pre": context.explained[0] if context.explained else explained,
            "baseline/explained_post": explained,
        }
        # last, so that an exception above leaves the learner unchanged
        scale = moments.scale() if moments else None
        self.params, self.updates = params, self.updates + 1
        self._moments, self._scale = moments, scale
        return metrics

    def step_sizes(self, num_steps: int) -> list[float]:
        """Returns alpha of each adaptation step.

        inner_lr, then inner_lr * later_lr, then later_decay times the previous one.
        """
        first, decay = self.config.inner_lr, self.config.later_decay
        later = first * self.config.later_lr
        return [first, *(later * decay**k for k in range(num_steps - 1))][:num_steps]

    def max_kl(self) -> float:
        """Returns the next update's trust region [nats]; it halves in `kl_halving` updates."""
        halving = self.config.kl_halving
        return self.config.max_kl * (0.5 ** (self.updates / halving) if halving else 1.0)

    def read_params(self, context: MamlContext) -> Params:
        """Returns the parameters of every task, each value (N, *shape)."""
        return context.params

    @torch.no_grad()
    def policy_kl(self, before: Params, after: Params, rollout: Rollout) -> Tensor:
        """Returns the mean KL(before || after) (N,) [nats] over the states of a rollout."""
        obs = normalize(rollout.obs, self._scale)
        obs, valid = (x.flatten(1, 2).to(self.device) for x in (obs, rollout.valid))
        outputs = [self.policy.network.outputs(params, obs) for params in (before, after)]
        kl = self.policy.distribution.kl_divergence(before, outputs[0], after, outputs[1])
        return (kl * valid).sum(dim=1) / valid.sum(dim=1)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns theta, the observation moments and the number of updates, on the CPU."""
        params = {f"policy/{n}": v.detach().clone() for n, v in to_cpu(self.params).items()}
        scale = self._moments.state("obs") if self._moments else {}
        return {**params, **scale, "updates": torch.tensor(self.updates)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores a state_dict().

        Raises:
            ValueError: A tensor is missing or has another shape; names it. The learner is
                unchanged.
        """
        check_state(state, self.state_dict())
        params = {
            name: state[f"policy/{name}"].to(self.device, value.dtype, copy=True)
            for name, value in self.params.items()
        }
        clamp_(self.policy.distribution, params)  # older versions saved values beyond the bound
        moments = Moments.of(state, "obs") if self._moments else None
        scale = moments.scale() if moments else None
        self.params, self.updates = params, int(state["updates"])
        self._moments, self._scale = moments, scale

    # --- pieces of the update, in the order of use -----------------------------------------------

    def _context(self, params: Params, **rest: tuple) -> MamlContext:
        acting = to_cpu(params)
        acting.update(self.policy.distribution.precompute(acting))
        return MamlContext(params, acting, **rest)

    def _batch(self, rollout: Rollout) -> tuple[Batch, float]:
        check_tasks(rollout.valid)  # on the CPU, because it would wait for a GPU
        rollout = rollout.to(self.device)
        settings = self.config.discount, self.config.gae_lambda
        advantage, explained = advantages(rollout, *settings, num_threads=self._num_threads)
        rollout = replace(rollout, obs=normalize(rollout.obs, self._scale))
        return Batch.of(rollout, advantage), explained

    def _merge_obs(self, rollouts: Sequence[Rollout]) -> Moments | None:
        """Returns the observation moments for the next iteration."""
        moments = self._moments
        if moments:
            for rollout in rollouts:
                moments = moments.merge(rollout.obs[rollout.valid])
        return moments

    def _bounds(self, num_tasks: int) -> list[tuple[int, int]]:
        size = self.config.task_chunk
        if size == 0:  # one task's activations fit into a CPU's cache; a GPU is faster with all
            size = 1 if self.device.type == "cpu" else num_tasks
        return [(i, min(i + size, num_tasks)) for i in range(0, num_tasks, size)]

    def _chunk(self, bounds: tuple[int, int], points: Sequence[Params], final: Batch) -> Chunk:
        own = tuple({n: v[slice(*bounds)] for n, v in point.items()} for point in points)
        obs = final.slice_tasks(*bounds).obs.flatten(1, 2)
        return Chunk(*bounds, own, self.policy.network.outputs(own[-1], obs))

    def _check_ratio(self, chunks: Sequence[Chunk], final: Batch) -> float:
        def compare(chunk: Chunk) -> float:
            own = final.slice_tasks(chunk.start, chunk.stop)
            log_ratio = self._old_log_prob(chunk, own) - own.log_prob.flatten(1)
            policy = chunk.points[-1], chunk.output, own.action.flatten(1, 2)
            rounding = self.policy.distribution.log_prob_rounding(*policy)
            return check_ratio(log_ratio, rounding, own.valid.flatten(1).bool())

        return max(map(compare, chunks))

    def _old_log_prob(self, chunk: Chunk, final: Batch) -> Tensor:
        """Returns log-probabilities (n, E * T) under the policy that sampled the last rollout."""
        actions = final.action.flatten(1, 2)
        return self.policy.distribution.log_prob(chunk.points[-1], chunk.output, actions)

    def _outer_step(self, chunks: Sequence[Chunk], batches: Sequence[Batch]) -> OuterStep:
        """Computes the natural step and searches along it."""
        outer = self._meta_gradient(chunks, batches)
        free = self._free(outer)
        outer = free * outer
        settings = {"iterations": self.config.cg_iterations, "damping": self.config.cg_damping}
        product = self._curvature(chunks, batches)
        proposal = natural_step(
            lambda v: free * product(free * v), outer, self.max_kl(), **settings
        )
        params, result = self.params, SearchResult(0.0, 0.0, 0.0, 0)
        if proposal.step is not None:
            result = self._search(proposal.step, chunks, batches)
            if result.scale > 0.0:
                params = self._add_step(proposal.step, result.scale)
        norm, is_rejected = float(outer.double().norm()), result.scale == 0.0
        return OuterStep(params, norm, proposal.predicted_gain, result, is_rejected)

    def _meta_gradient(self, chunks: Sequence[Chunk], batches: Sequence[Batch]) -> Tensor:
        """Returns the mean over tasks of J_i^T grad[ratio * A] at the adapted parameters (P,)."""

        def sum_chunk(chunk: Chunk) -> Tensor:
            own = [batch.slice_tasks(chunk.start, chunk.stop) for batch in batches]
            tape = self._tape(chunk, own[:-1])
            # the ratio is 1 here, so its gradient is that of log pi
            last = gradient(self.policy, "loglik", tape.points[-1], own[-1])
            ascent = tape.vjp({n: -last[n] for n in self.params})
            check_gradient(ascent, chunk.start)
            return flatten({n: v.sum(dim=0) for n, v in ascent.items()})

        sums = map_chunks(sum_chunk, chunks, self._num_threads)
        return torch.stack(sums).sum(dim=0) / len(batches[0].obs)

    def _tape(self, chunk: Chunk, batches: Sequence[Batch]) -> Tape:
        steps = [] if self.config.first_order else batches
        sizes = self.step_sizes(len(steps))
        return linearise(self.policy, self.config.surrogate, chunk.points, steps, sizes)

    def _curvature(self, chunks: Sequence[Chunk], batches: Sequence[Batch]) -> Product:
        """Returns the Gauss-Newton product of flat vectors (P,), on every stride-th state."""
        stride = max(1, round(1.0 / self.config.curvature_fraction))
        # dice couples the steps of an episode, so only whole episodes can be left out
        whole = self.config.surrogate == "dice"

        @torch.no_grad()
        def prepare(chunk: Chunk) -> AdaptedTasks:
            own = [
                batch.slice_tasks(chunk.start, chunk.stop).subsample(stride, whole_episodes=whole)
                for batch in batches
            ]
            return AdaptedTasks.of(self.policy, self._tape(chunk, own[:-1]), own[-1])

        adapted = map_chunks(prepare, chunks, self._num_threads)
        return gauss_newton(self.policy, self.params, adapted, num_threads=self._num_threads)

    def _search(
        self, step: Tensor, chunks: Sequence[Chunk], batches: Sequence[Batch]
    ) -> SearchResult:
        num_tasks = len(batches[0].obs)

        def evaluate(scale: float) -> tuple[float, float]:
            params = self._add_step(step, scale)
            sums = map_chunks(
                lambda chunk: self._objective(params, chunk, batches), chunks, self._num_threads
            )
            return tuple(sum(c) / num_tasks for c in zip(*torch.stack(sums).tolist(), strict=True))

        # the objective before the step, where the ratio is 1
        start = float((batches[-1].advantage * batches[-1].weight).sum()) / num_tasks
        decay, tries = self.config.line_search_decay, self.config.line_search_steps
        return line_search(evaluate, start, self.max_kl(), decay=decay, max_tries=tries)

    def _objective(self, params: Params, chunk: Chunk, batches: Sequence[Batch]) -> Tensor:
        """Adapts from params; sums surrogate and KL to the sampling policies over tasks (2,)."""
        own = [batch.slice_tasks(chunk.start, chunk.stop) for batch in batches]
        repeated, sizes = repeat(params, chunk.stop - chunk.start), self.step_sizes(len(own) - 1)
        tape = inner_steps(self.policy, self.config.surrogate, repeated, own[:-1], sizes)
        final, point = own[-1], tape.points[-1]
        network, distribution = self.policy.network, self.policy.distribution
        with torch.no_grad():
            output = network.outputs(point, final.obs.flatten(1, 2))
            new = distribution.log_prob(point, output, final.action.flatten(1, 2))
            ratio, weight = (new - self._old_log_prob(chunk, final)).exp(), final.weight.flatten(1)
            gain = (ratio * final.advantage.flatten(1) * weight).sum()
            kl = distribution.kl_divergence(chunk.points[-1], chunk.output, point, output)
            return torch.stack([gain, (kl * weight).sum()])

    def _free(self, ascent: Tensor) -> Tensor:
        """Returns 0 (P,) where a parameter is at its bound and a direction points beyond, else 1.

        Held parameters take no part in the step: the natural step would spend its trust region on
        changes that the bound undoes.
        """
        direction = unflatten(ascent, self.params)
        own = self.policy.distribution.can_move(self.params, direction)
        return flatten({n: own.get(n, torch.ones_like(v)) for n, v in self.params.items()})

    def _add_step(self, step: Tensor, scale: float) -> Params:
        change = unflatten(step, self.params)
        params = {n: v + scale * change[n] for n, v in self.params.items()}
        return {**params, **self.policy.distribution.clamp(params)}

    def _distribution_metrics(self, params: Params, adapted: Params) -> Metrics:
        """Returns means of the distribution's own parameters before and after adaptation."""
        metrics = self.policy.distribution.metrics
        before = {f"policy/{n}": v for n, v in metrics(params).items()}
        return before | {f"policy/{n}_adapted": v for n, v in metrics(adapted).items()}
