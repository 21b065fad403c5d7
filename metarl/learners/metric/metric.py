"""Metric-based adaptation: a policy that reads the mean embedding of a task's transitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from metarl.core.learner import TaskRngs
from metarl.core.rng import stream
from metarl.core.rollout import Action, Feedback, Metrics, Rollout, drop_unknown_ends
from metarl.functional.running_moments import Moments, normalize
from metarl.learners import adam, conditioned
from metarl.learners.conditioned import ConditionedActorCritic, build_mlp
from metarl.learners.metric.config import MetricConfig
from metarl.learners.metric.embedding import (
    draw_sets,
    find_same,
    metric_loss,
    read_transitions,
    square_distances,
    sum_embeddings,
)
from metarl.learners.teacher_student.ppo import descend
from metarl.learners.training_state import Optimiser, TrainingState
from metarl.networks.actor_critic import draw_parameters
from metarl.networks.distributions import Distribution, build_distribution


@dataclass(frozen=True)
class MetricContext:
    """Embeddings of the tasks.

    Attributes:
        embedding: Scaled mean over the transitions so far (N, Z); 0 before the first one.
        total: Sum over them (N, Z), float64.
        count: Number of them (N, 1).
        previous: The embeddings with which the earlier rollouts were played.
    """

    embedding: Tensor
    total: Tensor
    count: Tensor
    previous: tuple[Tensor, ...] = ()

    def slice_tasks(self, start: int, stop: int) -> MetricContext:
        """Returns what acting in the tasks start..stop needs, as views."""
        own = slice(start, stop)
        return MetricContext(self.embedding[own], self.total[own], self.count[own])


class MetricNetwork(nn.Module):
    """The encoder of transitions, and the policy that reads embeddings.

    Args:
        config: Sizes.
        distribution: Over actions.
        obs_size: S.
        action_size: A.
    """

    def __init__(
        self, config: MetricConfig, distribution: Distribution, obs_size: int, action_size: int
    ):
        super().__init__()
        size, latent = 2 * obs_size + action_size + 1, config.embedding_size
        sizes = obs_size, action_size, latent, config.hidden_size
        self.policy = ConditionedActorCritic(distribution, *sizes)
        # bounded, so that the policy's inputs keep their scale while the encoder learns
        self.encoder = nn.Sequential(build_mlp(size, config.encoder_size, latent), nn.Tanh())


class Metric:
    """Learns to tell tasks apart by their transitions, and a policy that reads what it learned.

        z = mean of f(s, a, r, s') over the transitions of the task so far

    f is trained by a loss on sets of transitions: the mean embeddings of two sets are near if they
    are of one task, and apart otherwise. No gradient of the policy reaches f. The policy, which
    reads z, is trained by PPO on all rollouts of a trial.

    Args:
        config: Settings.
        obs_size: S.
        action_size: A.
        seed: Seed of the initial parameters, the order of minibatches and the sets.
        discrete: Actions are one-hot rows of A alternatives.
        device: Where updates run; acting and adapting always run on the CPU.
        num_threads: Not used: an update has one thread.

    Source: Li et al. 2021, FOCAL (arXiv:2010.01112); Yuan & Lu 2022, CORRO (arXiv:2206.10442);
    Snell et al. 2017 (arXiv:1703.05175). They train offline, by actor-critic methods on stored
    experience; here experience is fresh and the policy is trained by PPO.
    """

    pools_episodes = True
    """An embedding is that of all E episodes of a task."""

    adapts_without_noise = True
    """It reads transitions, and takes no gradient of the actions' probabilities."""

    def __init__(
        self,
        config: MetricConfig,
        obs_size: int,
        action_size: int,
        *,
        seed: int,
        discrete: bool = False,
        device: torch.device | str = "cpu",
        num_threads: int = 1,
    ):
        del num_threads
        self.config, self._seed, self._device = config, seed, torch.device(device)
        log_std = config.initial_log_std, config.min_log_std
        self._distribution = build_distribution(discrete, *log_std)
        with torch.random.fork_rng(devices=[]):  # torch draws first values, which are replaced
            network = MetricNetwork(config, self._distribution, obs_size, action_size)
        draw_parameters(network, None, stream(seed, "init"), last="policy.actor.4.weight")
        size = 2 * obs_size + action_size + 1
        self._state = TrainingState(
            network,
            self._device,
            self._distribution,
            network.policy.distribution_params(),
            adams={
                "policy": Optimiser([*network.policy.parameters()], config.lr),
                "encoder": Optimiser([*network.encoder.parameters()], config.encoder_lr),
            },
            moments={
                **conditioned.initial_moments(obs_size),
                "transition": Moments.initial(size),
                "embedding": Moments.initial(config.embedding_size),
            },
        )

    @property
    def network(self) -> MetricNetwork:
        """Policy and encoder."""
        return self._state.network

    def begin(self, num_tasks: int, num_episodes: int, rngs: TaskRngs) -> MetricContext:
        """Returns the context before any experience: embeddings of zero."""
        del num_episodes, rngs
        zero = torch.zeros(num_tasks, self.config.embedding_size)
        return MetricContext(zero, zero.double(), torch.zeros(num_tasks, 1, dtype=torch.int64))

    def act(
        self,
        context: MetricContext,
        obs: Tensor,
        noise: Tensor,
        feedback: Feedback | None = None,
        *,
        explore: bool,
    ) -> tuple[Action, MetricContext]:
        """Samples actions (N, E, A) for obs (N, E, S), or takes the mode; keeps the context."""
        del feedback
        latent = context.embedding.unsqueeze(1).expand(*obs.shape[:2], -1)
        parts = self._state.acting.policy, self._distribution, self._state.moments["obs"]
        return conditioned.act(*parts, latent, obs, noise if explore else None), context

    @torch.no_grad()
    def adapt(self, context: MetricContext, rollout: Rollout, rngs: TaskRngs) -> MetricContext:
        """Adds the transitions of a rollout to the mean."""
        del rngs
        rollout = drop_unknown_ends(rollout)
        read = read_transitions(self._state.reward_unit.scale([rollout])[0])
        inputs = normalize(read, self._state.moments["transition"].scale())
        added, number = sum_embeddings(self._state.acting.encoder, inputs, rollout.valid)
        total, count = context.total + added, context.count + number
        mean = (total / count.clamp(min=1)).float()
        scaled = normalize(mean, self._state.moments["embedding"].scale())
        embedding = torch.where(count > 0, scaled, 0.0)
        return MetricContext(embedding, total, count, (*context.previous, context.embedding))

    def update(
        self, context: MetricContext, rollouts: Sequence[Rollout], tasks: np.ndarray
    ) -> Metrics:
        """Trains the policy by PPO on all rollouts, then the encoder.

        Raises:
            FloatingPointError: A gradient or a result is not finite, or the recomputed policy is
                not the one that sampled. Like any exception, it leaves the learner unchanged.
        """
        latents = [
            self._send(embedding.unsqueeze(1))
            for embedding in (*context.previous, context.embedding)
        ]
        state, distribution = self._state, self._distribution
        with state.update():
            policy = state.network.policy
            parts = state, policy, distribution, self.config, rollouts, latents, self._seed
            metrics = conditioned.train_policy(*parts)
            metrics |= self._train_encoder(rollouts, find_same(tasks))
            return metrics

    def state_dict(self) -> dict[str, Tensor]:
        """Returns parameters, Adam's states, the moments and the number of updates, on the CPU."""
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

    def _train_encoder(self, rollouts: Sequence[Rollout], same: Tensor) -> Metrics:
        """Trains the encoder on two sets of each row, from two different episodes.

        Rows of one task, by the mask `same` (N, N), count as one another's positives.

        Two sets of one episode have its states in common, which tell them from others whatever the
        task is: on navigation-2d the embedding then had no information about the goal.
        """
        config, state = self.config, self._state
        rollouts = [drop_unknown_ends(rollout) for rollout in rollouts]
        played = [read_transitions(rollout) for rollout in state.reward_unit.scale(rollouts)]
        valid = torch.cat([rollout.valid for rollout in rollouts], dim=1)
        whole = torch.cat(played, dim=1)  # (N, (K + 1) * E, T, I)
        state.moments["transition"] = state.moments["transition"].merge(whole[valid])
        scaled = normalize(whole, state.moments["transition"].scale())
        inputs, own_valid = self._send(scaled), self._send(valid)
        totals, encoder = torch.zeros(2, dtype=torch.float64), state.network.encoder
        schedule = config.encoder_lr, state.updates, config.encoder_halving
        adam.halve_step_size(state.adams["encoder"], *schedule)
        for step in range(config.encoder_steps):
            rng = stream(self._seed, "sets", state.updates, step)
            episodes = rng.permutation(valid.shape[1])[[0, -1]].tolist()
            # a simulation that failed at once has nothing to draw from
            used = valid[:, episodes].any(dim=2).all(dim=1)
            rows = self._send(used.nonzero().squeeze(1))
            query, prototype = (
                encoder(draw_sets(inputs[rows, e], own_valid[rows, e], config.set_size, rng))
                for e in episodes
            )
            query, prototype = query.mean(dim=1), prototype.mean(dim=1)
            if not len(query):
                continue
            own = self._send(same[used][:, used])
            loss = metric_loss(config, query, prototype, own)
            descend(state.adams["encoder"], loss, config.max_gradient)
            with torch.no_grad():
                nearest = square_distances(query, prototype).argmin(dim=1)
                is_own = own.gather(1, nearest.unsqueeze(1))
                totals += torch.stack([loss, is_own.to(loss.dtype).mean()]).double().cpu()
        state.moments["embedding"] = self._measure_scale(inputs, own_valid, len(rollouts))
        loss, hits = (totals / config.encoder_steps).tolist()
        return {"update/encoder_loss": loss, "update/encoder_hits": hits}

    def _send(self, value: Tensor) -> Tensor:
        """Returns a tensor of the CPU on the device, without waiting for it."""
        return value.to(self._device, non_blocking=True)

    @torch.no_grad()
    def _measure_scale(self, inputs: Tensor, valid: Tensor, num_rollouts: int) -> Moments:
        """Returns the moments of the mean embeddings that a trial's later rollouts would have.

        They are those of the new encoder alone: transitions of earlier policies had others.
        """
        episodes = valid.shape[1] // num_rollouts
        moments = Moments.initial(self.config.embedding_size)
        for k in range(1, max(2, num_rollouts)):
            own = slice(k * episodes)
            parts = self._state.network.encoder, inputs[:, own], valid[:, own]
            total, count = sum_embeddings(*parts)
            means = total / count.clamp(min=1)
            moments = moments.merge(means[count[:, 0] > 0].cpu())
        return moments
