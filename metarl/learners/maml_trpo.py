"""MAML with TRPO as the outer optimiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metarl import gaussian
from metarl.baseline import advantages
from metarl.learners.configs import MamlTrpoConfig
from metarl.learners.inner import (
    Batch,
    Tape,
    check_gradient,
    flatten,
    gradient,
    inner_steps,
    linearised_at,
    repeat,
    total,
    unflatten,
)
from metarl.normalize import Moments, scaled
from metarl.policies import GaussianMLP
from metarl.rng import stream
from metarl.threads import map_chunks
from metarl.trust_region import SearchResult, line_search, natural_step
from metarl.types import Action, Feedback, Metrics, Params, Rollout

MAX_RATIO_ERROR = 1e-3
"""Largest |ratio - 1| of acting and learning: with sigma = 0.05 and eight actions float32 alone gives 1e-4."""


@dataclass(frozen=True)
class MamlContext:
    """What MAML has made of each task so far.

    Attributes:
        params: theta_k, each value (N, *shape), on the learner's device.
        acting: The same on the CPU; with it what is the same at every control step: "std" (N, 1, A) of the action and
            "log_peak" (N, 1), its log-density at the mean [nats].
        points: theta_0 .. theta_k.
        batches: The rollouts adapted to, k of them.
        explained: Share of the returns' variance that the baseline explains, for each.
    """

    params: Params
    acting: Params
    points: tuple[Params, ...] = ()
    batches: tuple[Batch, ...] = ()
    explained: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Chunk:
    """A slice of the tasks with the adapted policy of the sampling parameters.

    Attributes:
        start: First task.
        stop: One past the last task.
        old_mean: Means (n, E * T, A) of the policy that sampled the last rollout.
        old_log_std: (n, 1, A).
        points: theta_0 .. theta_K of these tasks.
    """

    start: int
    stop: int
    old_mean: Tensor
    old_log_std: Tensor
    points: tuple[Params, ...]


@dataclass(frozen=True)
class _States:
    """What the curvature reads of a block of states after adaptation.

    Attributes:
        weight: (n, M, 1), each state's share of its task.
        activations: Of the network at the adapted parameters.
    """

    weight: Tensor
    activations: list[Tensor]


class MamlTrpo:
    """Meta-learns an initialisation from which a few gradient steps on a task's own rollouts lead to a good policy.

    Args:
        config: Settings.
        obs_size: S.
        action_size: A.
        seed: Seed of the initial parameters.
        device: Where adaptation and updates run; acting always runs on the CPU.
        num_threads: Threads over tasks on the CPU; results do not depend on it.

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
    ):
        self.config = config
        self.policy = GaussianMLP(obs_size, action_size, config.hidden_sizes, config.min_log_std)
        self.device = torch.device(device)
        self._num_threads = num_threads if self.device.type == "cpu" else 1
        self._cpu_threads = num_threads
        initial = self.policy.initial(
            stream(seed, "init"), config.initial_log_std, config.output_gain
        )
        self.params: Params = {n: v.to(self.device) for n, v in initial.items()}
        self.updates = 0
        self._moments = Moments.none(obs_size) if config.normalize_obs else None
        self._scale = self._moments.scale() if self._moments else None

    def begin(self, num_tasks: int, num_episodes: int) -> MamlContext:
        """The context before any experience: theta for every task."""
        del num_episodes
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
        """Draws actions (N, E, A) for obs (N, E, S), or takes the means; the context stays as it is."""
        del feedback
        obs = scaled(obs, self._scale) if self._scale else obs
        mean = self.policy.mean(context.acting, obs)
        if not explore:
            return Action(mean, torch.zeros(mean.shape[:2])), context
        action = torch.addcmul(mean, context.acting["std"], noise)
        log_prob = torch.add(context.acting["log_peak"], noise.square().sum(dim=-1), alpha=-0.5)
        return Action(action, log_prob), context

    def adapt(self, context: MamlContext, rollout: Rollout) -> MamlContext:
        """Takes one gradient step on every task's share of the rollout.

        Raises:
            FloatingPointError: A gradient is not finite; names the task and the parameter.
            ValueError: A task has no valid step.
        """
        batch, explained = self._batch(rollout)
        step_size = self.step_sizes(len(context.batches) + 1)[-1]

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
        return self._context(
            adapted,
            points=(*context.points, context.params),
            batches=(*context.batches, batch),
            explained=(*context.explained, explained),
        )

    def update(self, context: MamlContext, rollouts: Sequence[Rollout]) -> Metrics:
        """One TRPO step on the return after adaptation, differentiated through the adaptation.

        Raises:
            FloatingPointError: A gradient is not finite, or the policy that learns is not the one that acted.
        """
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
            "policy/log_std": float(self.params["log_std"].mean()),
            "policy/log_std_adapted": float(context.params["log_std"].mean()),
            "baseline/explained_pre": context.explained[0] if context.explained else explained,
            "baseline/explained_post": explained,
        }

    def step_sizes(self, num_steps: int) -> list[float]:
        """alpha of each adaptation step: inner_lr, and from the second step on a share of it."""
        config = self.config
        return [config.inner_lr * (config.later_lr if k else 1.0) for k in range(num_steps)]

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
        log_std = self.policy.log_std(acting)
        acting["std"] = log_std.exp()
        acting["log_peak"] = gaussian.log_prob_of_noise(torch.zeros_like(log_std), log_std)
        return MamlContext(params, acting, **rest)

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
        mean = self.policy.mean(own[-1], final.tasks(*bounds).obs.flatten(1, 2))
        return _Chunk(*bounds, mean, self.policy.log_std(own[-1]), own)

    def _ratio_error(self, chunks: Sequence[_Chunk], final: Batch, rollout: Rollout) -> float:
        worst = 0.0
        for chunk in chunks:
            own = final.tasks(chunk.start, chunk.stop)
            now = gaussian.log_prob(own.action.flatten(1, 2), chunk.old_mean, chunk.old_log_std)
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

    def _curvature(self, chunks: Sequence[_Chunk], batches: Sequence[Batch]):
        """The Gauss-Newton product v -> mean_i J_i^T F_i J_i v, on every stride-th state.

        At the sampling parameters it is the Hessian of the mean KL divergence (the residual term is zero there),
        positive semi-definite by construction, and needs no third derivatives.
        """
        stride = max(1, round(1.0 / self.config.curvature_fraction))
        # dice couples the steps of an episode, so it can leave out whole episodes only
        whole = self.config.surrogate == "dice"

        @torch.no_grad()
        def prepare(chunk: _Chunk) -> tuple[Tape, list[_States]]:
            own = [
                batch.tasks(chunk.start, chunk.stop).share(stride, whole_episodes=whole)
                for batch in batches
            ]
            tape = self._tape(chunk, own[:-1])
            return tape, [self._states(tape.points[-1], block) for block in own[-1].blocks()]

        prepared = map_chunks(prepare, chunks, self._num_threads)
        num_tasks = len(batches[0].obs)

        def product(vector: Tensor) -> Tensor:
            def one(part: tuple[Tape, list[_States]]) -> Tensor:
                return flatten(self._curvature_of(vector, *part))

            return torch.stack(map_chunks(one, prepared, self._num_threads)).sum(dim=0) / num_tasks

        return product

    def _states(self, point: Params, block: Batch) -> _States:
        activations = self.policy.activations(point, block.obs.flatten(1, 2))
        return _States(block.weight.flatten(1).unsqueeze(-1), activations)

    @torch.no_grad()
    def _curvature_of(self, vector: Tensor, tape: Tape, blocks: Sequence[_States]) -> Params:
        """Sum over a chunk's tasks of J_i^T F_i J_i v."""
        point, policy = tape.points[-1], self.policy
        moved = tape.jacobian(repeat(unflatten(vector, self.params), len(point["log_std"])))
        log_std, free = policy.log_std(point), policy.log_std_free(point).squeeze(-2)

        def pulled(block: _States) -> Params:
            tangent = policy.tangents(point, moved, block.activations)[-1]
            mean_side, std_side = gaussian.fisher_product(tangent, moved["log_std"] * free, log_std)
            slopes, _ = policy.pullback(point, block.activations, block.weight * mean_side)
            slopes["log_std"] = std_side * free * block.weight.sum(dim=1)
            return slopes

        whole = total(map(pulled, blocks))
        whole = tape.transposed({n: whole[n] for n in self.params})
        return {n: v.sum(dim=0) for n, v in whole.items()}

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
            mean, log_std = (
                self.policy.mean(point, final.obs.flatten(1, 2)),
                self.policy.log_std(point),
            )
            actions, weight = final.action.flatten(1, 2), final.weight.flatten(1)
            new = gaussian.log_prob(actions, mean, log_std)
            old = gaussian.log_prob(actions, chunk.old_mean, chunk.old_log_std)
            gain = ((new - old).exp() * final.advantage.flatten(1) * weight).sum()
            kl = gaussian.kl_divergence(chunk.old_mean, chunk.old_log_std, mean, log_std)
        return float(gain), float((kl * weight).sum())

    def _moved(self, step: Tensor, scale: float) -> Params:
        change = unflatten(step, self.params)
        return {n: v + scale * change[n] for n, v in self.params.items()}
