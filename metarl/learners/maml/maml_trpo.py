"""MAML with TRPO as the outer optimiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from metarl.core.learner import TaskRngs
from metarl.core.parallel import map_chunks
from metarl.core.rng import stream
from metarl.core.rollout import Action, Feedback, Metrics, Params, Rollout
from metarl.functional.advantages import advantages
from metarl.functional.params import check_finite, check_gradient, flatten, repeat, unflatten
from metarl.functional.running_moments import Moments, scaled
from metarl.functional.trust_region import SearchResult, line_search, natural_step
from metarl.learners.maml.config import MamlTrpoConfig
from metarl.learners.maml.gauss_newton import AdaptedTasks, gauss_newton
from metarl.learners.maml.inner_loop import Tape, gradient, inner_steps, linearised_at
from metarl.learners.maml.surrogates import Batch
from metarl.networks.policies import CategoricalMLP, GaussianMLP, Law

MAX_RATIO_ERROR = 1e-3
"""Largest |ratio - 1| of acting and learning: with sigma = 0.05 and eight actions float32 alone gives 1e-4."""


@dataclass(frozen=True)
class MamlContext:
    """What MAML has made of each task so far.

    Attributes:
        params: theta_k, each value (N, *shape), on the learner's device.
        acting: The same on the CPU; with it what acting needs that is the same at every control step.
        points: theta_0 .. theta_k.
        batches: The rollouts adapted to, k of them.
        explained: Share of the returns' variance that the baseline explains, for each.
    """

    params: Params
    acting: Params
    points: tuple[Params, ...] = ()
    batches: tuple[Batch, ...] = ()
    explained: tuple[float, ...] = ()

    def slice_tasks(self, start: int, stop: int) -> MamlContext:
        """The same for acting in the tasks start..stop alone, as views; acting leaves it as it is."""
        return MamlContext({}, {n: v[start:stop] for n, v in self.acting.items()})


@dataclass(frozen=True)
class _Chunk:
    """A slice of the tasks with the adapted policy of the sampling parameters.

    Attributes:
        start: First task.
        stop: One past the last task.
        old: What the policy that sampled the last rollout made of its observations (n, E * T, S).
        points: theta_0 .. theta_K of these tasks.
    """

    start: int
    stop: int
    old: Law
    points: tuple[Params, ...]


class MamlTrpo:
    """Meta-learns an initialisation from which a few gradient steps on a task's own rollouts lead to a good policy.

    Args:
        config: Settings.
        obs_size: S.
        action_size: A.
        seed: Seed of the initial parameters.
        device: Where adaptation and updates run; acting always runs on the CPU.
        num_threads: Threads over tasks on the CPU; results do not depend on it.
        discrete: Actions are one-hot rows of A alternatives.

    Source: Finn et al. 2017 (arXiv:1703.03400) with the corrections listed in the README.
    """

    pools_episodes = True
    """A task's E episodes are one batch of experience: every adaptation learns from all of them."""

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
    ):
        self.config = config
        sizes = obs_size, action_size, config.hidden_sizes
        start = stream(seed, "init")
        if discrete:
            self.policy = CategoricalMLP(*sizes)
            initial = self.policy.initial(start, config.output_gain)
        else:
            self.policy = GaussianMLP(*sizes, config.min_log_std)
            initial = self.policy.initial(start, config.initial_log_std, config.output_gain)
        self.device = torch.device(device)
        self._num_threads = num_threads if self.device.type == "cpu" else 1
        self._cpu_threads = num_threads
        self.params: Params = {n: v.to(self.device) for n, v in initial.items()}
        self.updates = 0
        self._moments = Moments.none(obs_size) if config.normalize_obs else None
        self._scale = self._moments.scale() if self._moments else None

    def begin(self, num_tasks: int, num_episodes: int, rngs: TaskRngs) -> MamlContext:
        """The context before any experience: theta for every task."""
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
        """Draws actions (N, E, A) for obs (N, E, S), or takes the likeliest; the context stays as it is."""
        del feedback
        obs = scaled(obs, self._scale) if self._scale else obs
        output = self.policy.outputs(context.acting, obs)
        if not explore:
            return Action(self.policy.mode(output), torch.zeros(output.shape[:2])), context
        return Action(*self.policy.draw(context.acting, output, noise)), context

    def adapt(self, context: MamlContext, rollout: Rollout, rngs: TaskRngs) -> MamlContext:
        """Takes one gradient step on every task's share of the rollout.

        Raises:
            FloatingPointError: A gradient or a result is not finite; names the task and the parameter.
            ValueError: A task has no valid step.
        """
        del rngs
        batch, explained = self._batch(rollout)
        k = len(context.batches)
        step_size = self.step_sizes(k + 1)[-1]

        def step(bounds: tuple[int, int]) -> Tape:
            params = {n: v[slice(*bounds)] for n, v in context.params.items()}
            own = [batch.tasks(*bounds)]
            tape = inner_steps(self.policy, self.config.surrogate, params, own, [step_size])
            for slope in tape.gradients:
                check_gradient(slope, bounds[0])
            return tape

        tapes = map_chunks(step, self._bounds(len(batch.obs)), self._num_threads)
        adapted = {
            n: torch.cat([tape.points[-1][n].detach() for tape in tapes]) for n in context.params
        }
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
        """One TRPO step on the return after adaptation, differentiated through the adaptation.

        Raises:
            FloatingPointError: A gradient is not finite, or the policy that learns is not the one that acted.
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
        ratio_error = self._ratio_error(chunks, final, rollouts[-1])
        outer = self._meta_gradient(chunks, batches)
        product = self._curvature(chunks, batches)
        proposal = natural_step(
            product,
            outer,
            self.max_kl(),
            iterations=self.config.cg_iterations,
            damping=self.config.cg_damping,
        )
        result = SearchResult(0.0, 0.0, 0.0, 0)
        if proposal.step is not None:
            result = self._search(proposal.step, chunks, batches)
            if result.scale > 0.0:
                self.params = self._moved(proposal.step, result.scale)
        max_kl = self.max_kl()
        self.updates += 1
        self._see(rollouts)
        return {
            "kl": result.kl,
            "update/max_kl": max_kl,
            "update/gain": result.gain,
            "update/predicted_gain": proposal.predicted_gain,
            "update/step_scale": result.scale,
            "update/rejected": float(result.scale == 0.0),
            "update/line_search_tries": float(result.tried),
            "update/gradient_norm": float(outer.double().norm()),
            "update/ratio_error": ratio_error,
            **self.policy.figures(self.params, context.params),
            "baseline/explained_pre": context.explained[0] if context.explained else explained,
            "baseline/explained_post": explained,
        }

    def step_sizes(self, num_steps: int) -> list[float]:
        """alpha of each adaptation step: inner_lr, then later_lr of it, then shorter by later_decay each time."""
        config = self.config
        later = config.inner_lr * config.later_lr
        steps = [config.inner_lr, *(later * config.later_decay**k for k in range(num_steps - 1))]
        return steps[:num_steps]

    def max_kl(self) -> float:
        """Radius of the next update's trust region [nats], halved every `kl_halving` updates."""
        halving = self.config.kl_halving
        return self.config.max_kl * (0.5 ** (self.updates / halving) if halving else 1.0)

    def state_dict(self) -> dict[str, Tensor]:
        """theta and the number of updates, on the CPU."""
        params = {f"policy/{n}": v.detach().cpu().clone() for n, v in self.params.items()}
        scale = self._moments.state("obs") if self._moments else {}
        return {**params, **scale, "updates": torch.tensor(self.updates)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over theta.

        Raises:
            ValueError: A parameter is missing or has another shape; names it.
        """
        loaded: Params = {}
        for name, value in self.params.items():
            found = state.get(f"policy/{name}")
            if found is None or found.shape != value.shape:
                had = "missing" if found is None else f"of shape {tuple(found.shape)}"
                raise ValueError(f"parameter {name!r} is {had}, wanted {tuple(value.shape)}")
            loaded[name] = found.to(self.device, value.dtype).clone()
        updates = state.get("updates")
        if updates is None or updates.shape != ():
            raise ValueError("'updates' is missing or no single number")
        moments = self._loaded_moments(state)
        self.params, self.updates, self._moments = loaded, int(updates), moments
        self._scale = moments.scale() if moments else None

    def _loaded_moments(self, state: Mapping[str, Tensor]) -> Moments | None:
        if self._moments is None:
            return None
        for name, value in self._moments.state("obs").items():
            if name not in state or state[name].shape != value.shape:
                raise ValueError(f"{name!r} is missing or not {tuple(value.shape)}")
        return Moments.of(state, "obs")

    # --- pieces of the update, in the order of use ---------------------------------------------------------------

    def _context(self, params: Params, **rest: tuple) -> MamlContext:
        acting = {n: v.cpu() for n, v in params.items()}
        return MamlContext(params, {**acting, **self.policy.acting(acting)}, **rest)

    def _batch(self, rollout: Rollout) -> tuple[Batch, float]:
        settings = self.config.discount, self.config.gae_lambda
        advantage, explained = advantages(rollout, *settings, num_threads=self._cpu_threads)
        if self._scale:
            rollout = replace(rollout, obs=scaled(rollout.obs, self._scale))
        return Batch.of(rollout, advantage, self.device), explained

    def _see(self, rollouts: Sequence[Rollout]) -> None:
        """Takes the observations of a trial into the scale of those to come."""
        if self._moments:
            for rollout in rollouts:
                self._moments = self._moments.merged(rollout.obs[rollout.valid])
            self._scale = self._moments.scale()

    def _bounds(self, num_tasks: int) -> list[tuple[int, int]]:
        size = self.config.task_chunk
        if size == 0:  # one task's activations stay in a CPU's cache; a GPU wants all of them
            size = 1 if self.device.type == "cpu" else num_tasks
        return [(i, min(i + size, num_tasks)) for i in range(0, num_tasks, size)]

    def _chunk(self, bounds: tuple[int, int], points: Sequence[Params], final: Batch) -> _Chunk:
        own = tuple({n: v[slice(*bounds)] for n, v in point.items()} for point in points)
        output = self.policy.outputs(own[-1], final.tasks(*bounds).obs.flatten(1, 2))
        return _Chunk(*bounds, self.policy.law(own[-1], output), own)

    def _ratio_error(self, chunks: Sequence[_Chunk], final: Batch, rollout: Rollout) -> float:
        worst = 0.0
        for chunk in chunks:
            own = final.tasks(chunk.start, chunk.stop)
            now = self.policy.log_prob(chunk.old, own.action.flatten(1, 2))
            then = rollout.log_prob[chunk.start : chunk.stop].to(self.device).flatten(1)
            error = ((now - then).expm1() * own.valid.flatten(1)).abs().max()
            worst = max(worst, float(error.nan_to_num(nan=float("inf"))))
        if worst > MAX_RATIO_ERROR:
            raise FloatingPointError(
                f"the policy that learns is not the policy that acted: |ratio - 1| = {worst:.2g}"
            )
        return worst

    def _meta_gradient(self, chunks: Sequence[_Chunk], batches: Sequence[Batch]) -> Tensor:
        """Ascent direction (P,): mean over tasks of J_i^T grad[ratio * A] at the adapted parameters."""

        def one(chunk: _Chunk) -> Tensor:
            own = [batch.tasks(chunk.start, chunk.stop) for batch in batches]
            tape = self._tape(chunk, own[:-1])
            # acting and learning agree: the ratio starts at 1, where the gradient is that of log pi * A
            last = gradient(self.policy, "loglik", tape.points[-1], own[-1])
            slope = tape.transposed({n: -last[n] for n in self.params})
            check_gradient(slope, chunk.start)
            return flatten({n: v.sum(dim=0) for n, v in slope.items()})

        parts = map_chunks(one, chunks, self._num_threads)
        return torch.stack(parts).sum(dim=0) / len(batches[0].obs)

    def _tape(self, chunk: _Chunk, batches: Sequence[Batch]) -> Tape:
        steps = [] if self.config.first_order else batches
        config = self.config
        return linearised_at(
            self.policy, config.surrogate, chunk.points, steps, self.step_sizes(len(steps))
        )

    def _curvature(
        self, chunks: Sequence[_Chunk], batches: Sequence[Batch]
    ) -> Callable[[Tensor], Tensor]:
        """The Gauss-Newton product of flat vectors (P,), on every stride-th state."""
        stride = max(1, round(1.0 / self.config.curvature_fraction))
        # dice couples the steps of an episode, so it can leave out whole episodes only
        whole = self.config.surrogate == "dice"

        @torch.no_grad()
        def prepare(chunk: _Chunk) -> AdaptedTasks:
            own = [
                batch.tasks(chunk.start, chunk.stop).share(stride, whole_episodes=whole)
                for batch in batches
            ]
            return AdaptedTasks.of(self.policy, self._tape(chunk, own[:-1]), own[-1])

        parts = map_chunks(prepare, chunks, self._num_threads)
        return gauss_newton(self.policy, self.params, parts, num_threads=self._num_threads)

    def _search(
        self, step: Tensor, chunks: Sequence[_Chunk], batches: Sequence[Batch]
    ) -> SearchResult:
        num_tasks = len(batches[0].obs)

        def evaluate(scale: float) -> tuple[float, float]:
            params = self._moved(step, scale)

            def one(chunk: _Chunk) -> tuple[float, float]:
                return self._objective(params, chunk, batches)

            parts = map_chunks(one, chunks, self._num_threads)
            return tuple(sum(column) / num_tasks for column in zip(*parts, strict=True))

        start = sum(float((b.advantage * b.weight).sum()) for b in batches[-1:]) / num_tasks
        return line_search(
            evaluate,
            start,
            self.max_kl(),
            decay=self.config.line_search_decay,
            max_tries=self.config.line_search_steps,
        )

    def _objective(
        self, params: Params, chunk: _Chunk, batches: Sequence[Batch]
    ) -> tuple[float, float]:
        """Sums over a chunk's tasks of the surrogate and of the KL divergence to the sampling policy, after adapting."""
        own = [batch.tasks(chunk.start, chunk.stop) for batch in batches]
        repeated = repeat(params, chunk.stop - chunk.start)
        config = self.config
        tape = inner_steps(
            self.policy, config.surrogate, repeated, own[:-1], self.step_sizes(len(own) - 1)
        )
        final, point = own[-1], tape.points[-1]
        with torch.no_grad():
            law = self.policy.law(point, self.policy.outputs(point, final.obs.flatten(1, 2)))
            actions, weight = final.action.flatten(1, 2), final.weight.flatten(1)
            new, old = (self.policy.log_prob(each, actions) for each in (law, chunk.old))
            gain = ((new - old).exp() * final.advantage.flatten(1) * weight).sum()
            kl = self.policy.kl_divergence(chunk.old, law)
        return float(gain), float((kl * weight).sum())

    def _moved(self, step: Tensor, scale: float) -> Params:
        change = unflatten(step, self.params)
        return {n: v + scale * change[n] for n, v in self.params.items()}
