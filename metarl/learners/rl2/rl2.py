"""RL^2: a memory that lives through the whole trial learns to adapt; recurrent PPO is the outer optimiser."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from metarl.core.learner import TaskRngs
from metarl.core.parallel import map_chunks
from metarl.core.rng import stream
from metarl.core.rollout import Action, Feedback, Metrics, Rollout
from metarl.functional.advantages import explained_variance, gae_over_trial, standardise
from metarl.functional.ppo import approximate_kl, clipped_loss, clipped_share
from metarl.functional.running_moments import Moments, scaled
from metarl.learners.rl2.config import Rl2Config
from metarl.networks.actor_critic import MemoryActorCritic
from metarl.networks.memory import State, joined
from metarl.sampling.sequences import Sequences

MAX_RATIO_ERROR = 1e-4
"""Largest |ratio - 1| of acting and learning before the first step of an update."""

SHARD_ROWS = 32
"""Trials whose gradient is taken at once on a CPU: few enough for every core to have a share."""


@dataclass(frozen=True)
class Rl2Context:
    """What RL^2 has lived through in each trial, and what it will be told at the next step.

    Attributes:
        state: Of the memory, rows (N * E) first.
        action: The action before (N, E, A); 0 at the start of a trial and after a fault.
        reward: The raw reward that followed it (N, E).
        done: 1 at the first step of a later episode (N, E), else 0.
    """

    state: State
    action: Tensor
    reward: Tensor
    done: Tensor

    def slice_tasks(self, start: int, stop: int) -> Rl2Context:
        """The context of the tasks start..stop alone, as views."""
        episodes = self.reward.shape[1]
        state = tuple(part[start * episodes : stop * episodes] for part in self.state)
        own = (part[start:stop] for part in (self.action, self.reward, self.done))
        return Rl2Context(state, *own)

    @classmethod
    def join(cls, parts: Sequence[Rl2Context]) -> Rl2Context:
        """The context of all tasks from those of neighbouring shares."""
        state = joined([part.state for part in parts])
        rest = zip(*((part.action, part.reward, part.done) for part in parts), strict=True)
        return Rl2Context(state, *map(torch.cat, rest))


@dataclass(frozen=True)
class _Batch:
    """Trials with what PPO needs of them.

    Attributes:
        steps: The trials.
        inputs: Of the memory (L, M, S + A + 2).
        advantage: (L, M) [standard deviations of the batch].
        target: Of the value (L, M) [scaled].
    """

    steps: Sequences
    inputs: Tensor
    advantage: Tensor
    target: Tensor

    def rows(self, index: Tensor) -> _Batch:
        parts = (self.inputs, self.advantage, self.target)
        return _Batch(self.steps.rows(index), *(part[:, index] for part in parts))


class Rl2:
    """Meta-learns a policy with memory, which adapts by acting: no gradient is taken on a new task.

    Args:
        config: Settings.
        obs_size: S.
        action_size: A.
        seed: Seed of the initial parameters and of the order of minibatches.
        discrete: Actions are one-hot rows of A alternatives.
        device: Where updates run; acting always runs on the CPU.
        num_threads: Threads over trials on the CPU; results do not depend on it.

    Source: Duan et al. 2016 (arXiv:1611.02779); Wang et al. 2016 (arXiv:1611.05763).
    """

    pools_episodes = False
    """The E episodes of a task are trials of their own: none learns from another."""

    def __init__(
        self,
        config: Rl2Config,
        obs_size: int,
        action_size: int,
        *,
        seed: int,
        discrete: bool = False,
        device: torch.device | str = "cpu",
        num_threads: int = 1,
    ):
        self.config, self._seed, self._action_size = config, seed, action_size
        self.device = torch.device(device)
        self._num_threads = num_threads if self.device.type == "cpu" else 1
        if self.device.type == "cuda":
            # TF32 in cuDNN's recurrent networks, on by default, breaks the probability ratio
            torch.backends.cudnn.allow_tf32 = False
        sizes = obs_size, action_size, config.memory_size, config.hidden_size
        with torch.random.fork_rng(devices=[]):  # torch initialises once, we do it again
            log_std = config.initial_log_std, config.min_log_std
            own = config.value_memory == "own"
            policy = MemoryActorCritic(config.memory, *sizes, log_std, discrete, own)
        policy.initialise(stream(seed, "init"))
        self.policy = policy.to(self.device)
        self._acting = self._acting_copy()
        self._adam = torch.optim.Adam(self.policy.parameters(), lr=config.lr, eps=1e-5)
        self._obs_moments, self._value_moments = Moments.none(obs_size), Moments.none(1)
        self._obs_scale = self._obs_moments.scale()
        self._updates = 0

    def begin(self, num_tasks: int, num_episodes: int, rngs: TaskRngs) -> Rl2Context:
        """The context before any experience: an empty memory for every row."""
        del rngs
        size = num_tasks, num_episodes
        zero = torch.zeros(size)
        state = self._acting.memory.initial(num_tasks * num_episodes)
        action = torch.zeros(*size, self._action_size)
        return Rl2Context(state, action, zero, zero)

    def act(
        self,
        context: Rl2Context,
        obs: Tensor,
        noise: Tensor,
        feedback: Feedback | None = None,
        *,
        explore: bool,
    ) -> tuple[Action, Rl2Context]:
        """Draws actions (N, E, A) for obs (N, E, S), or takes the means; the memory takes a step where alive."""
        policy, size = self._acting, obs.shape[:2]
        reward, done = context.reward, context.done
        if feedback is not None:
            reward, done = feedback.reward, torch.zeros(size)
        told = [context.action, reward.unsqueeze(-1), done.unsqueeze(-1)]
        inputs_obs = scaled(obs, self._obs_scale)
        inputs = torch.cat([inputs_obs, *told], dim=-1).flatten(0, 1)
        features, state = policy.memory.step(inputs, context.state)
        mean = policy.mean(features, inputs_obs.flatten(0, 1)).unflatten(0, size)
        if feedback is not None:
            state = policy.memory.keep(context.state, state, feedback.alive.flatten())
        if explore:
            action, log_prob = policy.draw(mean, noise)
        else:
            action, log_prob = policy.mode(mean), torch.zeros(size)
        return Action(action, log_prob), Rl2Context(state, action, reward, done)

    def adapt(self, context: Rl2Context, rollout: Rollout, rngs: TaskRngs) -> Rl2Context:
        """Keeps the memory: what it has lived through is the adaptation. The last step is still to be told."""
        del rngs
        last = (rollout.valid.sum(dim=2) + rollout.truncated - 1).unsqueeze(-1)
        index = last.unsqueeze(-1).expand(-1, -1, 1, rollout.action.shape[-1])
        action = rollout.action.gather(2, index).squeeze(2)
        reward = rollout.reward.gather(2, last).squeeze(2)
        return Rl2Context(context.state, action, reward, torch.ones_like(reward))

    def update(
        self, context: Rl2Context, rollouts: Sequence[Rollout], tasks: np.ndarray
    ) -> Metrics:
        """Several epochs of PPO over whole trials, back-propagated through time.

        Raises:
            FloatingPointError: A gradient is not finite, or the policy that learns is not the one that acted. The
                learner is as it was.
        """
        del context, tasks
        before = self.state_dict()
        try:
            return self._improve(Sequences.of(rollouts, self.device))
        except BaseException:  # also Ctrl-C
            self.load_state_dict(before)
            raise

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters, Adam's moments, the scales and the number of updates, on the CPU."""
        state = {}
        for name, value in self.policy.named_parameters():
            kept = self._adam.state.get(value, {})
            for part in ("exp_avg", "exp_avg_sq"):
                state[f"adam/{part}/{name}"] = kept.get(part, torch.zeros_like(value))
            state[f"policy/{name}"] = value
        state |= self._obs_moments.state("obs") | self._value_moments.state("value")
        steps = [float(kept["step"]) for kept in self._adam.state.values()][:1]
        state["adam/steps"] = torch.tensor(steps[0] if steps else 0.0)
        state["updates"] = torch.tensor(self._updates)
        return {name: value.detach().cpu().clone() for name, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over a state_dict().

        Raises:
            ValueError: A tensor is missing or has another shape; names it. The learner is as it was.
        """
        for name, value in self.state_dict().items():
            found = state.get(name)
            if found is None or found.shape != value.shape:
                had = "missing" if found is None else f"of shape {tuple(found.shape)}"
                raise ValueError(f"{name!r} is {had}, wanted {tuple(value.shape)}")
        steps = state["adam/steps"].clone()
        for name, value in self.policy.named_parameters():
            value.data.copy_(state[f"policy/{name}"])
            parts = {
                part: state[f"adam/{part}/{name}"].to(value.device, copy=True)
                for part in ("exp_avg", "exp_avg_sq")
            }
            self._adam.state[value] = {"step": steps.clone(), **parts}
        self._obs_moments, self._value_moments = (
            Moments.of(state, "obs"),
            Moments.of(state, "value"),
        )
        self._updates = int(state["updates"])
        self._settle()

    # --- pieces of the update, in the order of use ---------------------------------------------------------------

    def _settle(self) -> None:
        """Makes the acting side follow the learning side."""
        self._obs_scale = self._obs_moments.scale()
        self._acting = self._acting_copy()

    def _acting_copy(self) -> MemoryActorCritic:
        return self.policy if self.device.type == "cpu" else copy.deepcopy(self.policy).cpu()

    def _improve(self, steps: Sequences) -> Metrics:
        inputs = self._inputs(steps)
        batch = _Batch(steps, inputs, steps.reward, steps.reward)
        mean, scaled_value = self._evaluated(batch)
        ratio_error = self._ratio_error(steps, mean)
        value_mean, value_factor = self._value_moments.scale(self.device)
        value = scaled_value / value_factor + value_mean
        settings = self.config.discount, self.config.gae_lambda
        advantage = gae_over_trial(steps.reward, value, steps.valid, steps.acted, *settings)
        target = advantage + value
        explained = explained_variance(target[steps.valid], value[steps.valid])
        self._value_moments = self._value_moments.merged(target[steps.valid].unsqueeze(-1).cpu())
        value_mean, value_factor = self._value_moments.scale(self.device)
        batch = replace(
            batch,
            advantage=standardise(advantage.unsqueeze(0), steps.valid.unsqueeze(0)).squeeze(0),
            target=(target - value_mean) * value_factor,
        )
        metrics = self._epochs(batch)
        self._obs_moments = self._obs_moments.merged(steps.obs[steps.acted].cpu())
        self._updates += 1
        self._settle()
        return {
            **metrics,
            "update/ratio_error": ratio_error,
            **self._figures(mean, steps),
            "baseline/explained": explained,
        }

    @torch.no_grad()
    def _figures(self, mean: Tensor, steps: Sequences) -> Metrics:
        """How much the policy that acted explored."""
        figures = {"policy/entropy": float(self.policy.entropy(mean)[steps.valid].mean())}
        if not self.policy.discrete:
            figures["policy/log_std"] = float(self.policy.clamped_log_std().mean())
        return figures

    def _inputs(self, steps: Sequences) -> Tensor:
        """What the memory reads (L, M, S + A + 2)."""
        obs = scaled(steps.obs, self._obs_moments.scale(self.device))
        return torch.cat([obs, steps.previous()], dim=-1)

    def _shards(self, num_rows: int) -> list[Tensor]:
        """Shares of the rows that are worked on at once; they do not depend on the number of threads."""
        number = 1 if self.device.type != "cpu" else -(-num_rows // SHARD_ROWS)
        return list(torch.arange(num_rows, device=self.device).tensor_split(number))

    def _forward(self, batch: _Batch) -> tuple[Tensor, Tensor]:
        """Means (L, M, A) and scaled values (L, M)."""
        obs = batch.inputs[..., : batch.steps.obs.shape[-1]]
        return self.policy.unroll(batch.inputs, obs, self.config.truncation)

    @torch.no_grad()
    def _evaluated(self, batch: _Batch) -> tuple[Tensor, Tensor]:
        def one(rows: Tensor) -> tuple[Tensor, Tensor]:
            with torch.no_grad():  # a thread of its own has a switch of its own
                return self._forward(batch.rows(rows))

        shards = self._shards(batch.inputs.shape[1])
        mean, value = zip(*map_chunks(one, shards, self._num_threads), strict=True)
        return torch.cat(mean, dim=1), torch.cat(value, dim=1)

    def _ratio_error(self, steps: Sequences, mean: Tensor) -> float:
        with torch.no_grad():
            error = (self.policy.log_prob(mean, steps.action) - steps.log_prob).expm1().abs()
        worst = float(torch.where(steps.valid, error, 0.0).max().nan_to_num(nan=float("inf")))
        if worst > MAX_RATIO_ERROR:
            raise FloatingPointError(
                f"the policy that learns is not the policy that acted: |ratio - 1| = {worst:.2g}"
            )
        return worst

    def _epochs(self, batch: _Batch) -> Metrics:
        """PPO over minibatches of whole trials; stops where the policy has moved too far from the one that acted."""
        config, num_rows = self.config, batch.inputs.shape[1]
        totals = torch.zeros(len(_STATISTICS), dtype=torch.float64)
        rounds, kl, epoch = 0, 0.0, 0
        for epoch in range(1, config.epochs + 1):
            order = stream(self._seed, "minibatches", self._updates, epoch).permutation(num_rows)
            moved = torch.zeros((), dtype=torch.float64)
            parts = torch.from_numpy(order).tensor_split(min(config.minibatches, num_rows))
            for index in parts:
                statistics = self._step(batch.rows(index.to(self.device)))
                totals, moved, rounds = totals + statistics, moved + statistics[0], rounds + 1
            kl = float(moved) / len(parts)
            if config.max_kl and kl > config.max_kl:
                break
        means = (totals / rounds).tolist()
        return {
            "kl": kl,
            "update/epochs": float(epoch),
            **dict(zip(_STATISTICS[1:], means[1:], strict=True)),
        }

    def _step(self, batch: _Batch) -> Tensor:
        """One step of Adam on a minibatch; returns the _STATISTICS."""
        parameters = list(self.policy.parameters())
        count = batch.steps.valid.sum()

        def one(rows: Tensor) -> tuple[Sequence[Tensor], Tensor]:
            loss, statistics = self._loss(batch.rows(rows), count)
            return torch.autograd.grad(loss, parameters), statistics.detach()

        results = map_chunks(one, self._shards(batch.inputs.shape[1]), self._num_threads)
        slopes, statistics = zip(*results, strict=True)
        gradient = [torch.stack(parts).sum(dim=0) for parts in zip(*slopes, strict=True)]
        for parameter, slope in zip(parameters, gradient, strict=True):
            parameter.grad = slope
        norm = float(torch.nn.utils.get_total_norm(gradient))
        if not norm < float("inf"):
            raise FloatingPointError(f"the gradient's norm is {norm}")
        torch.nn.utils.clip_grads_with_norm_(
            parameters, self.config.max_gradient, torch.tensor(norm)
        )
        self._adam.step()
        return torch.cat([torch.stack(statistics).sum(dim=0).cpu(), torch.tensor([norm])])

    def _loss(self, batch: _Batch, count: Tensor) -> tuple[Tensor, Tensor]:
        """Share of the minibatch's loss, a mean over its `count` valid steps, and of the _STATISTICS but the norm."""
        config, steps = self.config, batch.steps
        mean, value = self._forward(batch)
        log_ratio = self.policy.log_prob(mean, steps.action) - steps.log_prob
        log_ratio = torch.where(steps.valid, log_ratio, 0.0)

        def average(values: Tensor) -> Tensor:
            return torch.where(steps.valid, values, 0.0).sum() / count

        policy_loss = average(clipped_loss(log_ratio, batch.advantage, config.clip))
        value_loss = average((value - batch.target).square())
        entropy = average(self.policy.entropy(mean))
        loss = policy_loss + config.value_weight * value_loss - config.entropy_weight * entropy
        with torch.no_grad():
            divergence = average(approximate_kl(log_ratio))
            left = average(clipped_share(log_ratio, config.clip))
        return loss, torch.stack([divergence, left, policy_loss, value_loss]).double()


_STATISTICS = (
    "kl",
    "update/clipped",
    "update/policy_loss",
    "update/value_loss",
    "update/gradient_norm",
)
"""Means over the minibatches of an update."""
