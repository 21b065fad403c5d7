"""A policy that is given the task, and a Gaussian process that finds which to give it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from metarl.core.env import UnsupportedHere
from metarl.core.learner import TaskRngs
from metarl.core.rng import stream
from metarl.core.rollout import Action, Feedback, Metrics, Params, Rollout
from metarl.core.task_code import TaskCode
from metarl.core.tasks import TaskDistribution
from metarl.functional.params import leaves, to_cpu
from metarl.learners import conditioned
from metarl.learners.conditioned import ConditionedActorCritic
from metarl.learners.gp.config import GpConfig
from metarl.learners.gp.returns import (
    Scale,
    Trials,
    choose_mean,
    choose_sample,
    likelihood_loss,
    predict,
)
from metarl.learners.ppo_passes import take_step
from metarl.learners.training_state import Optimiser, TrainingState
from metarl.networks.actor_critic import draw_parameters
from metarl.networks.distributions import Distribution, build_distribution


@dataclass(frozen=True)
class GpContext:
    """Latents that were tried in every task, and their returns.

    Attributes:
        latent: With which the present episodes are played (N, E, C).
        trials: The episodes so far.
        choices: Latents of the episodes of a rollout (N, L, C), from which those beyond L start
            again. None in training.
        own: Latents of the tasks (N, C) in training, where the policy is given them; else None.
    """

    latent: Tensor
    trials: Trials
    choices: Tensor | None = None
    own: Tensor | None = None

    def slice_tasks(self, start: int, stop: int) -> GpContext:
        """Returns what acting in the tasks start..stop needs, as views."""
        return GpContext(self.latent[start:stop], self.trials)


class GpNetwork(nn.Module):
    """The policy and the parameters of the kernel.

    Args:
        config: Sizes.
        distribution: Over actions.
        obs_size: S.
        action_size: A.
        latent_size: C.
    """

    def __init__(
        self,
        config: GpConfig,
        distribution: Distribution,
        obs_size: int,
        action_size: int,
        latent_size: int,
    ):
        super().__init__()
        sizes = obs_size, action_size, latent_size, config.hidden_size
        self.policy = ConditionedActorCritic(distribution, *sizes)
        self.kernel = nn.ParameterDict(
            {
                "log_amplitude": nn.Parameter(torch.zeros(())),
                "log_length": nn.Parameter(torch.zeros(latent_size)),
                "log_noise": nn.Parameter(torch.tensor(math.log(0.3))),
            }
        )

    def kernel_params(self) -> Params:
        """Returns the kernel's parameters by name."""
        return dict(self.kernel.items())


class Gp:
    """Trains a policy that is given the task; finds on a new task which numbers to give it.

        R(w) ~ GP(m, a^2 exp(-|(w - w') / l|^2 / 2) + s^2)

    In training the policy reads the numbers w of the task, kinds as one-hot rows and others scaled
    to [-1, 1], and PPO improves it. In some episodes it is given the numbers of another task; from
    these the kernel's parameters are learned, by the likelihood of the returns. On a new task,
    whose numbers are not given, every episode is played with some w. After each rollout the
    process, given the returns of this task so far, says which w of training tasks to try next.

    Args:
        config: Settings.
        obs_size: S.
        action_size: A.
        tasks: The distribution of the tasks.
        seed: Seed of the initial parameters and of the order of minibatches.
        discrete: Actions are one-hot rows of A alternatives.
        device: Where the policy is updated; the process always runs on the CPU.
        num_threads: Not used: an update has one thread.

    Raises:
        UnsupportedHere: The task has no numbers, or one without a range.

    Source: Yu et al. 2019, Policy transfer with strategy optimization (arXiv:1810.05751), which
    searches by CMA-ES; Cully et al. 2015, Robots that can adapt like animals (arXiv:1407.3501),
    which searches a map of behaviours by a Gaussian process.
    """

    pools_episodes = True
    """The process is given the returns of all E episodes of a task."""

    def __init__(
        self,
        config: GpConfig,
        obs_size: int,
        action_size: int,
        *,
        tasks: TaskDistribution,
        seed: int,
        discrete: bool = False,
        device: torch.device | str = "cpu",
        num_threads: int = 1,
    ):
        del num_threads
        self.config, self._seed, self._device = config, seed, torch.device(device)
        self._code = TaskCode(tasks)
        if not self._code.size:
            raise UnsupportedHere("the task has no numbers that a policy could be given")
        log_std = config.initial_log_std, config.min_log_std
        self._distribution = build_distribution(discrete, *log_std)
        sizes = obs_size, action_size, self._code.size
        with torch.random.fork_rng(devices=[]):  # torch draws first values, which are replaced
            network = GpNetwork(config, self._distribution, *sizes)
        draw_parameters(network, None, stream(seed, "init"), last="policy.actor.4.weight")
        self._state = TrainingState(
            network,
            self._device,
            self._distribution,
            network.policy.distribution_params(),
            adams={
                "policy": Optimiser([*network.policy.parameters()], config.lr),
                "kernel": Optimiser([*network.kernel.parameters()], config.kernel_lr),
            },
            moments=conditioned.initial_moments(obs_size),
            values={
                "candidates": torch.zeros(config.num_candidates, self._code.size),
                "return_mean": torch.zeros((), dtype=torch.float64),
                "return_deviation": torch.ones((), dtype=torch.float64),
            },
        )

    @property
    def network(self) -> GpNetwork:
        """The policy and the kernel."""
        return self._state.network

    def begin(self, num_tasks: int, num_episodes: int, rngs: TaskRngs) -> GpContext:
        """Returns the context before any experience: the episodes try latents of several tasks."""
        del rngs
        candidates = self._state.values["candidates"]
        index = torch.arange(num_episodes) * len(candidates) // num_episodes
        index = index + torch.arange(len(candidates)).unsqueeze(1)  # later ones try the neighbours
        choices = candidates[index.flatten() % len(candidates)].expand(num_tasks, -1, -1)
        latent = choices[:, :num_episodes]
        return GpContext(latent, Trials.empty(num_tasks, self._code.size), choices)

    def begin_training(self, tasks: np.ndarray, num_episodes: int, rngs: TaskRngs) -> GpContext:
        """Returns the context of a training trial on tasks (N, D), which the policy is given."""
        del rngs
        own = torch.from_numpy(self._code.encode(np.asarray(tasks, dtype=float))).float()
        latent, _ = self._assign(own, num_episodes, 0)
        return GpContext(latent, Trials.empty(len(own), self._code.size), own=own)

    def act(
        self,
        context: GpContext,
        obs: Tensor,
        noise: Tensor,
        feedback: Feedback | None = None,
        *,
        explore: bool,
    ) -> tuple[Action, GpContext]:
        """Samples actions (N, E, A) for obs (N, E, S), or takes the mode; keeps the context."""
        del feedback
        parts = self._state.acting.policy, self._distribution, self._state.moments["obs"]
        return conditioned.act(*parts, context.latent, obs, noise if explore else None), context

    @torch.no_grad()
    def adapt(self, context: GpContext, rollout: Rollout, rngs: TaskRngs) -> GpContext:
        """Chooses the latents of the next episodes from the returns so far."""
        trials, episodes = context.trials.append(context.latent, rollout), rollout.valid.shape[1]
        if context.own is not None:
            count = trials.result.shape[1] // episodes
            return replace(
                context, latent=self._assign(context.own, episodes, count)[0], trials=trials
            )
        candidates = self._state.values["candidates"]
        kernel = self._state.acting.kernel_params()
        found = predict(kernel, self._scale(), trials, candidates)
        if self.config.choice == "mean":
            index = choose_mean(found, episodes)
        else:
            drawn = [rng.standard_normal((episodes, len(candidates))) for rng in rngs]
            index = choose_sample(found, torch.from_numpy(np.stack(drawn)))
        return GpContext(candidates[index], trials, candidates[index])

    def select_episodes(self, context: GpContext, first: int, num_episodes: int) -> GpContext:
        """Returns the context for episodes first, first + 1, ... of a rollout.

        Raises:
            ValueError: The context is that of a training trial.
        """
        if context.choices is None:
            raise ValueError("the trial began with begin_training")
        index = (first + torch.arange(num_episodes)) % context.choices.shape[1]
        return replace(context, latent=context.choices[:, index])

    def read_policy(self, context: GpContext) -> Params:
        """Returns the latent (C,) of the next episode of the first task; see `HasFixedPolicy`."""
        return {"latent": context.latent[0, 0]}

    def update(self, context: GpContext, rollouts: Sequence[Rollout], tasks: np.ndarray) -> Metrics:
        """Trains the policy on the episodes in which it was given the task, the kernel on all.

        Raises:
            FloatingPointError: A gradient or a result is not finite, or the recomputed policy is
                not the one that sampled. Like any exception, it leaves the learner unchanged.
            ValueError: The context is not that of a training trial.
        """
        del tasks
        if context.own is None:
            raise ValueError("the trial did not begin with begin_training")
        state, episodes = self._state, rollouts[0].valid.shape[1]
        trials = context.trials.append(context.latent, rollouts[-1])
        latents, used = [], []
        for k, rollout in enumerate(rollouts):
            latent, is_probe = self._assign(context.own, episodes, k)
            latents.append(latent.to(self._device, non_blocking=True))
            used.append(replace(rollout, valid=rollout.valid & ~is_probe.unsqueeze(-1)))
        with state.update():
            parts = state, state.network.policy, self._distribution, self.config
            metrics = conditioned.train_policy(*parts, used, latents, self._seed)
            return metrics | self._train_kernel(trials, context.own)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns parameters, Adam's states, moments, candidates and scale, on the CPU."""
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

    def _scale(self) -> Scale:
        values = self._state.values
        return Scale(values["return_mean"], values["return_deviation"])

    def _assign(self, own: Tensor, num_episodes: int, k: int) -> tuple[Tensor, Tensor]:
        """Returns the latents (N, E, C) of training rollout k, and which episodes are probes.

        A probe is given the numbers of another task of the meta-batch.
        """
        tasks = len(own)
        every = min(self.config.probe_every, max(2, tasks * num_episodes))
        row = torch.arange(tasks * num_episodes).view(tasks, num_episodes)
        is_probe = (row + k) % every == every - 1
        other = (torch.arange(tasks).unsqueeze(1) + 1 + row % max(1, tasks - 1)) % tasks
        latent = torch.where(is_probe.unsqueeze(-1), own[other], own.unsqueeze(1))
        return latent, is_probe

    def _train_kernel(self, trials: Trials, own: Tensor) -> Metrics:
        """Fits the kernel to the trials, and remembers the tasks (N, C) as candidates."""
        config, state = self.config, self._state
        scale, loss = Scale.of(trials), torch.zeros(())
        for _ in range(config.kernel_steps):
            kernel = leaves(to_cpu(state.network.kernel_params()))
            loss = likelihood_loss(kernel, scale, trials)
            gradient = torch.autograd.grad(loss, list(kernel.values()))
            sent = [value.to(self._device, non_blocking=True) for value in gradient]
            take_step(state.adams["kernel"], sent, config.max_gradient)
        known = state.values["candidates"]
        # the first tasks fill all of it, so that it holds nothing but tasks
        newest = own if state.updates else own[torch.arange(len(known)) % len(own)]
        state.values = {
            "candidates": torch.cat([known, newest])[-len(known) :].clone(),
            "return_mean": scale.mean,
            "return_deviation": scale.deviation,
        }
        lengths = state.network.kernel["log_length"].detach().exp()
        return {
            "update/kernel_loss": float(loss.detach()),
            "update/kernel_length": float(lengths.mean()),
            "update/kernel_noise": float(state.network.kernel["log_noise"].detach().exp()),
        }
