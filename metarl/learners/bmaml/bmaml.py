"""Bayesian MAML: first particles of policies, from which Stein steps lead to those of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from metarl.core.learner import TaskRngs
from metarl.core.machine.parallel import one_torch_thread
from metarl.core.rng import stream
from metarl.core.rollout import Action, Feedback, Metrics, Params, Rollout
from metarl.functional.advantages import advantages
from metarl.functional.params import check_finite, norm, to_cpu
from metarl.functional.ppo import approximate_kl, check_ratio
from metarl.functional.running_moments import Moments, normalize
from metarl.learners.bmaml.config import BmamlConfig
from metarl.learners.bmaml.particles import (
    Particles,
    divide,
    divide_batch,
    gather,
    repeat_particles,
)
from metarl.learners.maml.surrogates import Batch, check_tasks
from metarl.learners.training_state import Optimiser, TrainingState
from metarl.networks.distributions import build_distribution, clamp_, own_metrics
from metarl.networks.mlp import TanhMLP
from metarl.networks.policies import MLPPolicy


@dataclass(frozen=True)
class BmamlContext:
    """Adapted particles of each task.

    Attributes:
        params: Each value (N, P, *shape), on the learner's device.
        acting: The same on the CPU, and values precomputed for sampling.
        batches: The rollouts that they were adapted to, from `divide_batch`.
        first: The particle of the first of the present episodes.
    """

    params: Params
    acting: Params
    batches: tuple[Batch, ...] = ()
    first: int = 0

    def slice_tasks(self, start: int, stop: int) -> BmamlContext:
        """Returns what acting in the tasks start..stop needs, as views."""
        acting = {n: v[start:stop] for n, v in self.acting.items()}
        return BmamlContext({}, acting, first=self.first)


class ParticleNetwork(nn.Module):
    """Holds the first particles, each value (P, *shape).

    Args:
        params: Their values.
    """

    def __init__(self, params: Params):
        super().__init__()
        self.policy = nn.ParameterDict({n: nn.Parameter(v) for n, v in params.items()})

    def params(self) -> Params:
        """Returns the values by name."""
        return {n: v.detach() for n, v in self.policy.items()}


class Bmaml:
    """Meta-learns particles that few Stein steps move to a distribution of policies for a task.

    Every episode is played by one particle, so a rollout has as many behaviours as particles. A
    step of the adaptation moves each along the policy gradients of all, weighted by a kernel, and
    away from the others (`Particles`). An update moves the first particles along the direction of
    one more step, on the rollouts after adaptation: the chaser loss without second derivatives.

    Args:
        config: Settings.
        obs_size: S.
        action_size: A.
        seed: Seed of the initial parameters.
        discrete: Actions are one-hot rows of A alternatives.
        device: Where adaptation and updates run; acting always runs on the CPU.
        num_threads: Not used: an update has one thread.

    Source: Yoon et al. 2018 (arXiv:1806.03836). They differentiate through the steps; here the
    update is of first order, as the steps of all particles would need Hessian products, and has
    several clipped steps of Adam in place of TRPO.
    """

    pools_episodes = True
    """An adaptation learns from all E episodes of a task."""

    def __init__(
        self,
        config: BmamlConfig,
        obs_size: int,
        action_size: int,
        *,
        seed: int,
        discrete: bool = False,
        device: torch.device | str = "cpu",
        num_threads: int = 1,
    ):
        del num_threads
        self.config, self._device = config, torch.device(device)
        log_std = config.initial_log_std, config.min_log_std
        distribution = build_distribution(discrete, *log_std)
        network = TanhMLP(obs_size, action_size, config.hidden_sizes)
        self.policy = MLPPolicy(network, distribution)
        self._particles = Particles(self.policy, config)
        drawn = [
            self.policy.initial(stream(seed, "init", p), config.output_gain)
            for p in range(config.num_particles)
        ]
        first = {n: torch.stack([each[n] for each in drawn]) for n in drawn[0]}
        particles = ParticleNetwork(first)
        self._state = TrainingState(
            particles,
            self._device,
            distribution,
            {name: particles.policy[name] for name in distribution.initial(action_size)},
            adams={"policy": Optimiser([*particles.parameters()], config.outer_lr)},
            moments={"obs": Moments.initial(obs_size)} if config.normalize_obs else {},
        )

    def begin(self, num_tasks: int, num_episodes: int, rngs: TaskRngs) -> BmamlContext:
        """Returns the context before any experience: the first particles for every task."""
        del num_episodes, rngs
        return self._context(repeat_particles(self._state.network.params(), num_tasks), ())

    def act(
        self,
        context: BmamlContext,
        obs: Tensor,
        noise: Tensor,
        feedback: Feedback | None = None,
        *,
        explore: bool,
    ) -> tuple[Action, BmamlContext]:
        """Samples actions (N, E, A) of each episode's particle, or takes its mode."""
        del feedback
        count, first, episodes = self.config.num_particles, context.first, obs.shape[1]
        policy = self.policy
        acting = {n: v.flatten(0, 1) for n, v in context.acting.items()}
        rows = divide(normalize(obs, self._scale()), count, first)
        output = policy.network.outputs(acting, rows)
        if not explore:
            mode = gather(policy.distribution.mode(output), count, episodes, first)
            return Action(mode, torch.zeros(mode.shape[:2])), context
        noise = divide(noise, count, first)
        drawn = policy.distribution.sample_precomputed(acting, output, noise)
        return Action(*(gather(each, count, episodes, first) for each in drawn)), context

    def select_episodes(self, context: BmamlContext, first: int, num_episodes: int) -> BmamlContext:
        """Returns the context for episodes first, first + 1, ... of a rollout; see `divide`."""
        del num_episodes
        return replace(context, first=first % self.config.num_particles)

    def adapt(self, context: BmamlContext, rollout: Rollout, rngs: TaskRngs) -> BmamlContext:
        """Takes one Stein step on the particles of every task.

        Raises:
            FloatingPointError: A gradient or a result is not finite; names task, particle and
                parameter.
            ValueError: A task has no valid step.
        """
        del rngs
        batch, _ = self._batch(rollout, context.first)
        point = {n: v.flatten(0, 1) for n, v in context.params.items()}
        with one_torch_thread():
            adapted = {n: v.detach() for n, v in self._particles.step(point, batch).items()}
        k = len(context.batches)
        message = f"{{}} is not finite after adapting to rollout {k}"
        check_finite(adapted, 0, message, self._particles.name_row)
        return self._context(adapted, (*context.batches, batch))

    def read_policy(self, context: BmamlContext) -> Params:
        """Returns the particle of the next episode of the first task; see `HasFixedPolicy`."""
        return {n: v[0, context.first] for n, v in context.params.items()}

    def update(
        self, context: BmamlContext, rollouts: Sequence[Rollout], tasks: np.ndarray
    ) -> Metrics:
        """Takes `outer_epochs` steps on the first particles; see `Particles.ascent`.

        Raises:
            FloatingPointError: A gradient or a result is not finite, or the recomputed policies
                are not those that sampled. Like any exception, it leaves the learner unchanged.
        """
        del tasks
        state = self._state
        with state.update(), one_torch_thread():
            last, explained = self._batch(rollouts[-1])
            batches = (*context.batches, last)
            point = {n: v.flatten(0, 1) for n, v in context.params.items()}
            checked = self._check(point, last)
            size = 0.0
            if not state.moments or bool(state.moments["obs"].count):
                size = self._improve(batches)
            # without a scale a step would be one of particles on another scale
            for rollout in rollouts if state.moments else ():
                merged = state.moments["obs"].merge(rollout.obs[rollout.valid])
                state.moments["obs"] = merged
            return {
                "kl": self._divergence(batches),
                "update/gradient_norm": size,
                **checked,
                "update/spread": self._spread(),
                "baseline/explained": explained,
            }

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the particles and what updates need, on the CPU."""
        return self._state.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores a state_dict().

        Raises:
            ValueError: A tensor is missing or has another shape; names it. The learner is
                unchanged.
        """
        self._state.load_state_dict(state)

    def reset_schedule(self) -> None:
        """Sets the step sizes and the number of updates to the first ones; see `HasSchedule`."""
        self._state.reset_schedule()

    def is_optimiser(self, name: str) -> bool:
        """Returns whether an entry of state_dict() is state of Adam."""
        return name.startswith("adam/")

    # --- pieces of the update --------------------------------------------------------------------

    def _scale(self) -> tuple[Tensor, Tensor] | None:
        moments = self._state.moments
        return moments["obs"].scale() if moments else None

    def _context(self, params: Params, batches: tuple[Batch, ...]) -> BmamlContext:
        """Makes a context of particles (N * P, *shape)."""
        count, acting = self.config.num_particles, to_cpu(params)
        acting.update(self.policy.distribution.precompute(acting))
        own = {n: v.unflatten(0, (-1, count)) for n, v in params.items()}
        ready = {n: v.unflatten(0, (-1, count)) for n, v in acting.items()}
        return BmamlContext(own, ready, batches)

    def _batch(self, rollout: Rollout, first: int = 0) -> tuple[Batch, float]:
        """Divides a rollout among the particles; the baseline is that of all episodes."""
        check_tasks(rollout.valid)
        rollout = rollout.to(self._device)
        settings = self.config.discount, self.config.gae_lambda
        advantage, explained = advantages(rollout, *settings)
        scaled = replace(rollout, obs=normalize(rollout.obs, self._scale()))
        batch = Batch.of(scaled, advantage)
        return divide_batch(batch, self.config.num_particles, first), explained

    def _improve(self, batches: Sequence[Batch]) -> float:
        """Takes the steps of Adam; returns the norm of the last direction."""
        state, size = self._state, 0.0
        policy, distribution = state.network.policy, self.policy.distribution
        for _ in range(self.config.outer_epochs):
            found = self._particles.ascent(state.network.params(), batches)
            for name, value in found.items():
                policy[name].grad = -value
            size = norm(found)
            state.adams["policy"].step()
            clamp_(distribution, dict(policy.items()))
        return size

    @torch.no_grad()
    def _log_prob(self, point: Params, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns log-probabilities (N * P, E' * T) [nats], and the bound on their rounding."""
        policy, action = self.policy, batch.action.flatten(1, 2)
        output = policy.network.outputs(point, batch.obs.flatten(1, 2))
        parts = point, output, action
        distribution = policy.distribution
        return distribution.log_prob(*parts), distribution.log_prob_rounding(*parts)

    def _check(self, point: Params, batch: Batch) -> Metrics:
        """Returns the error of the recomputed log-probabilities, and the particles' own numbers."""
        log_prob, rounding = self._log_prob(point, batch)
        log_ratio = log_prob - batch.log_prob.flatten(1)
        error = check_ratio(log_ratio, rounding, batch.valid.flatten(1).bool())
        return {
            "update/ratio_error": error,
            **own_metrics(self.policy.distribution, point),
        }

    def _divergence(self, batches: Sequence[Batch]) -> float:
        """Returns the estimated KL of the new adapted particles from those that acted [nats]."""
        last = batches[-1]
        count = len(last.obs) // self.config.num_particles
        point = repeat_particles(self._state.network.params(), count)
        for batch in batches[:-1]:
            point = self._particles.step(point, batch)
        log_ratio = self._log_prob(point, last)[0] - last.log_prob.flatten(1)
        return float((approximate_kl(log_ratio) * last.weight.flatten(1)).sum(dim=1).mean())

    def _spread(self) -> float:
        """Returns the root mean square distance of the first particles from their mean."""
        squares = [
            (v - v.mean(dim=0)).double().square().flatten(1).sum(dim=1)
            for v in self._state.network.params().values()
        ]
        return float(torch.stack(squares).sum(dim=0).mean().sqrt())
