"""MAML and its relatives: meta-parameters that a few gradient steps adapt to a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from metarl.core.learner import TaskRngs
from metarl.core.machine.parallel import ALONE, Group, map_chunks, map_in_group, own_slice
from metarl.core.rng import stream
from metarl.core.rollout import Action, Feedback, Metrics, Params, Rollout
from metarl.functional.advantages import estimate, explained_by_tasks
from metarl.functional.params import (
    check_finite,
    check_gradient,
    check_state,
    check_updated,
    to_cpu,
)
from metarl.functional.ppo import check_ratio
from metarl.functional.running_moments import Moments, normalize
from metarl.functional.trust_region import SearchResult
from metarl.learners import adam
from metarl.learners.maml.adaptation import Adaptation, GradientSteps
from metarl.learners.maml.adaptations.leo import EncodedSteps
from metarl.learners.maml.adaptations.meta_lstm import LearnedSteps
from metarl.learners.maml.config import MamlConfig
from metarl.learners.maml.meta_gradient import old_log_prob
from metarl.learners.maml.outer_ppo import AdamSteps
from metarl.learners.maml.outer_reptile import reptile_step
from metarl.learners.maml.outer_trpo import TrpoStep, describe_step
from metarl.learners.maml.records import Chunk, MamlContext, OuterStep, Trial, join_contexts
from metarl.learners.maml.surrogates import Batch, check_tasks
from metarl.networks.distributions import build_distribution, clamp_, own_metrics
from metarl.networks.latent import LatentNetwork
from metarl.networks.mlp import ContextNetwork, TanhMLP
from metarl.networks.module_network import build_network
from metarl.networks.policies import MLPPolicy, Network


class Maml:
    """Meta-learns initial parameters that a few gradient steps adapt to a new task.

    The settings make it one of a family: which parameters a task adapts (`adapts`), with step sizes
    that are given or learned (`learn_rates`), and how the initial parameters are improved (`outer`:
    TRPO, PPO or Reptile).

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
      the baseline's fit and of E-MAML's score.
    """

    pools_episodes = True
    """An adaptation learns from all E episodes of a task."""

    def __init__(
        self,
        config: MamlConfig,
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
        network = network or _build_network(config, obs_size, action_size)
        self.policy = MLPPolicy(network, distribution)
        initial = self.policy.initial(stream(seed, "init"), config.output_gain)
        self.device = torch.device(device)
        self._num_threads = num_threads if self.device.type == "cpu" else 1
        moved = {n: v.to(self.device) for n, v in initial.items()}
        self.params: Params = self.adaptation.initial(moved, stream(seed, "adaptation"))
        self.updates = 0
        self._moments = Moments.initial(obs_size) if config.normalize_obs else None
        self._scale = self._moments.scale() if self._moments else None
        self._group = ALONE
        self._adam: AdamSteps | None = None
        if config.outer == "ppo":
            self._adam = AdamSteps(config, self.params)
            adam.begin(self._adam.adam)

    @property
    def adaptation(self) -> Adaptation:
        """The adaptation of tasks, as a value."""
        if self.config.inner == "lstm":
            return LearnedSteps(self.policy, self.config)
        if self.config.adapts == "latent" and self.config.encoder_size:
            return EncodedSteps(self.policy, self.config)
        return GradientSteps(self.policy, self.config)

    def join_group(self, group: Group) -> None:
        """Makes this process compute its slice of the tasks; see `SplitsUpdate`."""
        self._group = group

    def begin(self, num_tasks: int, num_episodes: int, rngs: TaskRngs) -> MamlContext:
        """Returns the context before any experience: theta for every task."""
        del num_episodes, rngs
        return self._context(self.adaptation.start(self.params, num_tasks))

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
        batch, spreads = self._batch(rollout)
        points, batches = (*context.points, context.params), (*context.batches, batch)

        def step(bounds: tuple[int, int]) -> Params:
            own = [{n: v[slice(*bounds)] for n, v in point.items()} for point in points]
            tasks = [each.slice_tasks(*bounds) for each in batches]
            tape = self.adaptation.step(self.params, own, tasks)
            for step_gradient in tape.gradients:
                check_gradient(step_gradient, bounds[0])
            return {n: v.detach() for n, v in tape.points[-1].items()}

        bounds, k = self._bounds(len(batch.obs)), len(context.batches)
        last = map_in_group(step, bounds, self._num_threads, self._group)
        adapted = {n: torch.cat([point[n] for point in last]) for n in context.params}
        check_finite(adapted, 0, f"{{}} is not finite after adapting to rollout {k}")
        return self._context(
            adapted,
            points=points,
            batches=batches,
            spreads=(*context.spreads, spreads),
        )

    def update(
        self, context: MamlContext, rollouts: Sequence[Rollout], tasks: np.ndarray
    ) -> Metrics:
        """Improves the return after adaptation, differentiated through the adaptation.

        With normalize_obs the first update only measures the scale of observations: the first scale
        changed the policy of half-cheetah-dir by 1.3 nats, the second one by 0.005.

        Raises:
            FloatingPointError: A gradient or a result is not finite, or the recomputed policy is
                not the one that sampled. Like any exception, it leaves the learner unchanged.
        """
        del tasks
        before = self.params, self.updates, self._moments, self._scale  # values, never changed
        optimiser = self._adam_state()
        try:
            return self._improve(context, rollouts)
        except BaseException:  # also Ctrl-C
            self.params, self.updates, self._moments, self._scale = before
            self._restore_adam(optimiser)
            raise

    def _improve(self, context: MamlContext, rollouts: Sequence[Rollout]) -> Metrics:
        final, spreads = self._batch(rollouts[-1])
        trial = self._trial(context, rollouts[-1], final)
        error = max(self._group.gather(lambda: self._check_ratio(trial.chunks, final)))
        if self._moments and not self._moments.count:
            # a step now would be one of a policy on another scale
            none = describe_step(SearchResult(0.0, 0.0, 0.0, 0), self.max_kl())
            step = OuterStep(self.params, none if self.config.outer == "trpo" else {})
        else:
            step = self._outer_step(trial)
        moments = self._merge_obs(rollouts)
        check_updated(step.params)
        check_updated(self._adam_moments())
        check_updated(moments.state("obs") if moments else {})
        metrics = {
            "kl": 0.0,
            **step.metrics,
            "update/ratio_error": error,
            **self._distribution_metrics(step.params, context.params),
            "baseline/explained_pre": explained_by_tasks((*context.spreads, spreads)[0]),
            "baseline/explained_post": explained_by_tasks(spreads),
        }
        scale = moments.scale() if moments else None
        self.params, self.updates = step.params, self.updates + 1
        self._moments, self._scale = moments, scale
        return metrics

    def _outer_step(self, trial: Trial) -> OuterStep:
        if self._adam:
            step = self._adam.take(self.adaptation, trial, self._num_threads)
        elif self.config.outer == "reptile":
            step = reptile_step(self.adaptation, self.params, trial, self._num_threads)
        else:
            inputs = self.adaptation, self.params, trial, self.max_kl(), self._num_threads
            return TrpoStep(*inputs, order=self.updates).take()
        return step

    def max_kl(self) -> float:
        """Returns the next update's trust region [nats]; it halves in `kl_halving` updates."""
        halving = self.config.kl_halving
        return self.config.max_kl * (0.5 ** (self.updates / halving) if halving else 1.0)

    def read_params(self, context: MamlContext) -> Params:
        """Returns the parameters of every task, each value (N, *shape)."""
        return context.params

    def read_policy(self, context: MamlContext) -> Params:
        """Returns the parameters of the first task; see `HasFixedPolicy`."""
        return {name: value[0] for name, value in context.params.items()}

    @torch.no_grad()
    def policy_kl(self, before: Params, after: Params, rollout: Rollout) -> Tensor:
        """Returns the mean KL(before || after) (N,) [nats] over the states of a rollout."""
        obs = normalize(rollout.obs, self._scale)
        obs, valid = (x.flatten(1, 2).to(self.device) for x in (obs, rollout.valid))
        outputs = [self.policy.network.outputs(params, obs) for params in (before, after)]
        kl = self.policy.distribution.kl_divergence(before, outputs[0], after, outputs[1])
        return (kl * valid).sum(dim=1) / valid.sum(dim=1)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the meta-parameters and what updates need, on the CPU."""
        params = {f"policy/{n}": v.detach().clone() for n, v in to_cpu(self.params).items()}
        scale = self._moments.state("obs") if self._moments else {}
        return {**params, **scale, **self._adam_state(), "updates": torch.tensor(self.updates)}

    def _adam_moments(self) -> Params:
        """Returns the moments of the outer optimiser, where they are; nothing without one."""
        if not self._adam:
            return {}
        return adam.moments(self._adam.adam, {leaf: n for n, leaf in self._adam.leaves.items()})

    def _adam_state(self) -> dict[str, Tensor]:
        if not self._adam:
            return {}
        state = {n: v.detach().clone() for n, v in to_cpu(self._adam_moments()).items()}
        weight = torch.tensor(self._adam.inner_kl_weight, dtype=torch.float64)
        steps = adam.num_steps(self._adam.adam).cpu().clone()
        return {**state, "adam/steps": steps, "adam/inner_kl_weight": weight}

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
        self._restore_adam(state)

    def reset_schedule(self) -> None:
        """Sets the trust region and the penalty's weight to the first ones; see `HasSchedule`."""
        self.updates = 0
        if self._adam:
            self._adam.inner_kl_weight = self.config.inner_kl_weight

    def _restore_adam(self, state: Mapping[str, Tensor]) -> None:
        """Makes the outer optimiser that of a state, in place."""
        if not self._adam:
            return
        with torch.no_grad():
            for n, leaf in self._adam.leaves.items():
                leaf.copy_(self.params[n])
            for name, value in self._adam_moments().items():
                value.copy_(state[name])
        adam.restore_steps(self._adam.adam, state["adam/steps"])
        self._adam.inner_kl_weight = float(state["adam/inner_kl_weight"])

    def is_optimiser(self, name: str) -> bool:
        """Returns whether an entry of state_dict() is state of Adam."""
        return name.startswith("adam/")

    def join_trials(self, parts: Sequence[MamlContext]) -> MamlContext:
        """Returns the context of all tasks from those of neighbouring tasks."""
        num_tasks = sum(len(part.acting[next(iter(part.acting))]) for part in parts)
        start = self.adaptation.start(self.params, num_tasks)
        if not parts[0].batches:
            return self._context(start)
        joined = join_contexts(parts, self.device)
        points = (start, *joined.points[1:])  # views of one theta, as in a trial here
        rest = {"points": points, "batches": joined.batches, "spreads": joined.spreads}
        return self._context(joined.params, **rest)

    # --- pieces of the update, in the order of use -----------------------------------------------

    def _context(self, params: Params, **rest: tuple) -> MamlContext:
        acting = to_cpu(params)
        acting.update(self.policy.distribution.precompute(acting))
        return MamlContext(params, acting, **rest)

    def _batch(self, rollout: Rollout) -> tuple[Batch, Tensor]:
        check_tasks(rollout.valid)  # on the CPU, because it would wait for a GPU
        rollout = rollout.to(self.device)
        settings = self.config.discount, self.config.gae_lambda
        options = {"num_threads": self._num_threads, "group": self._group}
        advantage, spreads = estimate(rollout, *settings, **options)
        rollout = replace(rollout, obs=normalize(rollout.obs, self._scale))
        return Batch.of(rollout, advantage), spreads

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
            size = 1 if self.device.type == "cpu" else -(-num_tasks // self._group.size)
        return [(i, min(i + size, num_tasks)) for i in range(0, num_tasks, size)]

    def _trial(self, context: MamlContext, last: Rollout, final: Batch) -> Trial:
        points = (*context.points, context.params)

        def chunk(bounds: tuple[int, int]) -> Chunk:
            own = tuple({n: v[slice(*bounds)] for n, v in point.items()} for point in points)
            obs = final.slice_tasks(*bounds).obs.flatten(1, 2)
            return Chunk(*bounds, own, self.policy.network.outputs(own[-1], obs))

        bounds = self._bounds(len(final.obs))
        own = bounds[own_slice(len(bounds), self._group)]
        chunks = map_chunks(chunk, own, self._num_threads)
        batches = *context.batches, final
        # the return of an episode that a failed simulation cut is not known
        returns = last.returns().masked_fill(last.truncated, 0.0)
        returns = returns.sum(dim=1) / (~last.truncated).sum(dim=1)
        return Trial(chunks, batches, returns, self._group)

    def _check_ratio(self, chunks: Sequence[Chunk], final: Batch) -> float:
        def compare(chunk: Chunk) -> float:
            own = final.slice_tasks(chunk.start, chunk.stop)
            log_ratio = old_log_prob(self.adaptation, chunk, own) - own.log_prob.flatten(1)
            policy = chunk.points[-1], chunk.output, own.action.flatten(1, 2)
            rounding = self.policy.distribution.log_prob_rounding(*policy)
            return check_ratio(log_ratio, rounding, own.valid.flatten(1).bool())

        return max(map(compare, chunks), default=0.0)

    def _distribution_metrics(self, params: Params, adapted: Params) -> Metrics:
        """Returns means of the distribution's own parameters before and after adaptation."""
        distribution = self.policy.distribution
        after = {f"{n}_adapted": v for n, v in own_metrics(distribution, adapted).items()}
        return own_metrics(distribution, params) | after


def _build_network(config: MamlConfig, obs_size: int, action_size: int) -> Network:
    plain = TanhMLP(obs_size, action_size, config.hidden_sizes)
    if config.adapts == "context":
        return ContextNetwork(plain, config.context_size, config.context_layers == "all")
    if config.adapts == "latent":
        return LatentNetwork(plain, config.latent_size)
    layers = config.hidden_sizes, config.activation, config.layer_norm
    return build_network(obs_size, action_size, *layers)
