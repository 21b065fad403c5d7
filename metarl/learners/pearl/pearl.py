"""PEARL: guesses the task from transitions, and acts on the guess; trained off-policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from metarl.core.env import UnsupportedHere
from metarl.core.errors import ConfigError
from metarl.core.learner import TaskRngs
from metarl.core.rng import stream
from metarl.core.rollout import Action, Feedback, Metrics, Params, Rollout
from metarl.core.tasks import TaskDistribution
from metarl.functional.params import check_state, check_updated, to_cpu
from metarl.learners import adam
from metarl.learners.pearl import losses, squashed_gaussian
from metarl.learners.pearl.config import PearlConfig
from metarl.learners.pearl.context import PearlContext, draw_context
from metarl.learners.pearl.networks import CRITICS, DECODER, Networks
from metarl.learners.pearl.posterior import Posterior
from metarl.sampling.replay_buffer import (
    ReplayBuffer,
    Transitions,
    TransitionSampler,
    episode_shapes,
    to_entries,
)

GROUPS = ("encoder", DECODER, *CRITICS), ("actor",), (losses.TEMPERATURE,)
"""Networks whose gradient has one norm."""

METRICS = {
    "update/critic_loss": "critic",
    "update/actor_loss": "actor",
    "update/posterior_kl": "kl",
    "update/entropy": "entropy",
    "update/value": "value",
    "update/value_error": "error",
    "update/reward_error": "reward",
}
"""Metric -> the loss, or other number of `losses.Losses`, whose mean it is."""

SAMPLES = 100
"""Episodes of each robot of a session that act on noise of their own until it adapts."""


class Pearl:
    """Trains an encoder of transitions, and a policy that reads a sample of its guess, by SAC.

    In a trial the first rollout acts on a sample of the prior, every later one on a sample of the
    posterior from all transitions before it. With guess "step" an episode's own steps tell its
    guess too, and the same noise becomes samples of a distribution that narrows. Without
    exploration the mean takes the place of the sample, and the mode that of the action.

    The trainer draws fresh tasks in every iteration, so the replay buffer holds those of the last
    `task_memory` trials' tasks, each with its own episodes. The context of a task is drawn from its
    first rollouts, one or more but not the last, as `adapt` meets them; with guess "step" from the
    beginning of an episode of the first. Drawn from all rollouts alike, transitions of a guess that
    was right tell the task by what the robot does, and the encoder stops reading what earns
    rewards.

    Args:
        config: Settings.
        obs_size: S.
        action_size: A.
        seed: Seed of the initial parameters and of the batches.
        discrete: Must be False.
        device: Where updates run; acting always runs on the CPU.
        num_threads: Not used: an update has one thread.

    Raises:
        UnsupportedHere: Actions are discrete.

    Source: Rakelly et al. 2019 (arXiv:1903.08254).
    """

    pools_episodes = True
    """The E episodes of a task give one posterior."""

    adapts_without_noise = True
    """It reads transitions, and takes no gradient of the actions' probabilities."""

    def __init__(
        self,
        config: PearlConfig,
        obs_size: int,
        action_size: int,
        *,
        seed: int,
        discrete: bool = False,
        device: torch.device | str = "cpu",
        num_threads: int = 1,
    ):
        del num_threads
        if discrete:
            hint = "take rl2 or maml-trpo"
            raise UnsupportedHere(
                f"the actions are discrete, and soft actor-critic has none; {hint}"
            )
        self.config, self._seed, self.device = config, seed, torch.device(device)
        self.adapts_while_acting = config.guess == "step"
        self.networks = Networks(config, obs_size, action_size)
        params = self.networks.initial(stream(seed, "init"))
        first = torch.tensor(config.initial_temperature).log()
        params[losses.TEMPERATURE] = first.expand(action_size).clone()
        self._acting = {name: value.clone() for name, value in params.items()}
        self.params: Params = {n: v.to(self.device).requires_grad_() for n, v in params.items()}
        self.target: Params = {n: v.detach().clone() for n, v in _critics(self.params).items()}
        self._adam = torch.optim.Adam(list(self.params.values()), lr=config.lr, fused=True)
        adam.begin(self._adam, self.device)
        self._replay = ReplayBuffer(config.task_memory)
        self._updates = 0

    # --- the five verbs ------------------------------------------------------------------------

    def begin(self, num_tasks: int, num_episodes: int, rngs: TaskRngs) -> PearlContext:
        """Draws the noise of every episode around the prior; without streams it is zero."""
        prior = Posterior.prior(num_tasks, self.config.latent_size)
        return draw_context(prior, (num_episodes, SAMPLES * num_episodes), rngs)

    def act(
        self,
        context: PearlContext,
        obs: Tensor,
        noise: Tensor,
        feedback: Feedback | None = None,
        *,
        explore: bool,
    ) -> tuple[Action, PearlContext]:
        """Samples actions (N, E, A) for obs (N, E, S) and z, or takes the mode at z's mean."""
        context, limit = self._observe(context, obs, feedback), self.config.action_limit
        latent = context.read(explore=explore)
        mean, log_std = self.networks.policy(self._acting, obs, latent)
        if explore:
            value, log_prob = squashed_gaussian.sample(mean, log_std, noise)
            action = Action(limit * value, (log_prob - np.log(limit)).sum(dim=-1))
        else:
            action = Action(limit * mean.tanh(), torch.zeros(obs.shape[:2]))
        is_renewed = self.config.guess == "step"
        return action, replace(context, last=(obs, action.value)) if is_renewed else context

    @torch.no_grad()
    def adapt(self, context: PearlContext, rollout: Rollout, rngs: TaskRngs) -> PearlContext:
        """Multiplies the posterior by the factors of a rollout's transitions, and draws noise."""
        steps, valid = _transitions(rollout)
        posterior = self.networks.observe(self._acting, context.posterior, steps, valid)
        size = context.noise.shape[1], context.all_noise.shape[1]
        return draw_context(posterior, size, rngs)

    def select_episodes(self, context: PearlContext, first: int, num_episodes: int) -> PearlContext:
        """Returns the context for episodes first, first + 1, ... of a rollout."""
        return context.select(first, num_episodes)

    def update(
        self, context: PearlContext, rollouts: Sequence[Rollout], tasks: np.ndarray
    ) -> Metrics:
        """Puts a trial into the replay buffer and takes `update_ratio` gradient steps per step.

        Raises:
            ValueError: No task in the buffer has a valid step in its first rollout.
            FloatingPointError: A parameter is not finite afterwards. Like any exception, it leaves
                the learner unchanged.
        """
        del context, tasks
        before = self.state_dict()
        try:
            replay = self._replay.append(to_entries(rollouts, self._replay.next_task()))
            steps = sum(rollout.num_steps() for rollout in rollouts)
            metrics = self._train(replay, max(1, round(self.config.update_ratio * steps)))
            check_updated(self._device_state())
            acting = _copy(to_cpu(self.params))
        except BaseException:  # also Ctrl-C
            self._restore(before)
            raise
        self._acting, self._replay, self._updates = acting, replay, self._updates + 1
        return {**metrics, "replay/episodes": float(len(replay))}

    def state_dict(self) -> dict[str, Tensor]:
        """Returns parameters, targets, Adam's state and the number of updates, on the CPU."""
        state = _copy(to_cpu(self._device_state()))
        state["adam/steps"] = adam.num_steps(self._adam).cpu().clone()
        return {**state, "updates": torch.tensor(self._updates)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores a state_dict(); the replay buffer stays as it is.

        Raises:
            ValueError: A tensor is missing or has another shape; names it. The learner is
                unchanged.
        """
        check_state(state, self.state_dict())
        self._restore(state)

    # --- capabilities --------------------------------------------------------------------------

    def replay_size(self) -> int:
        """Returns the number of episodes since the start of the run."""
        return self._replay.stop

    def replay_start(self) -> int:
        """Returns the number of the oldest episode in the buffer."""
        return self._replay.start

    def read_replay(self, start: int, stop: int) -> dict[str, Tensor]:
        """Returns the episodes start..stop."""
        return self._replay.read(start, stop)

    def load_replay(self, entries: Mapping[str, Tensor]) -> None:
        """Replaces the replay buffer.

        Raises:
            ValueError: The entries are of another learner; nothing has changed.
        """
        shapes = episode_shapes(self.networks.obs_size, self.networks.action_size)
        self._replay = self._replay.load(entries, shapes)

    def reset_schedule(self) -> None:
        """Counts the updates, which name the streams of batches, anew; see `HasSchedule`."""
        self._updates = 0

    def is_optimiser(self, name: str) -> bool:
        """Returns whether only updates need an entry of state_dict(): all but encoder and actor."""
        return not name.startswith(("policy/encoder/", "policy/actor/", "updates"))

    def start_from(self, state: Mapping[str, Tensor], tasks: TaskDistribution) -> str:
        """Starts from a state_dict() of other tasks; see `StartsFromOtherTasks`.

        The replay buffer begins anew.

        Raises:
            ConfigError: The critics are missing, as in a published policy. New ones would undo the
                actor: on half-cheetah-dir 80 gradient steps took it from 1750 to -50.
        """
        del tasks
        if not any(name.startswith(f"policy/{CRITICS[0]}/") for name in state):
            hint = "give the run folder that it was published from"
            raise ConfigError(f"--init-from: a published policy of pearl has no critics; {hint}")
        fresh = {n: value for n, value in self.state_dict().items() if n.startswith("adam/")}
        self.load_state_dict(fresh | dict(state))
        self.reset_schedule()
        self.load_replay({})
        return "encoder, actor and critics go on; the replay buffer begins anew"

    # --- pieces of acting -------------------------------------------------------------------------

    @torch.no_grad()
    def _observe(
        self, context: PearlContext, obs: Tensor, feedback: Feedback | None
    ) -> PearlContext:
        """Returns the context with the last step of each present episode that goes on."""
        if feedback is None or context.last is None:
            return context
        nothing_ends = torch.zeros_like(feedback.alive)
        parts = *context.last, feedback.reward, obs, nothing_ends
        steps = Transitions(*(part.flatten(0, 1).unsqueeze(1) for part in parts))
        alive = feedback.alive.flatten().unsqueeze(1)
        present = self.networks.observe(self._acting, context.present_guesses(), steps, alive)
        return replace(context, present=present)

    # --- pieces of the update ------------------------------------------------------------------

    def _device_state(self) -> Params:
        """Returns parameters, target critics and Adam's moments, where they are."""
        names: dict[Tensor, str] = {value: name for name, value in self.params.items()}
        state = {f"policy/{name}": value for name, value in self.params.items()}
        state |= {f"target/{name}": value for name, value in self.target.items()}
        return state | adam.moments(self._adam, names)

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        """Restores a state that fits, in place."""
        for name, value in self._device_state().items():
            value.data.copy_(state[name])
        adam.restore_steps(self._adam, state["adam/steps"])
        self._updates = int(state["updates"])
        self._acting = _copy(to_cpu(self.params))

    def _train(self, replay: ReplayBuffer, count: int) -> Metrics:
        """Takes gradient steps; returns the means of their losses."""
        sampler = TransitionSampler(replay)
        usable = np.flatnonzero(sampler.first_counts > 0)
        if not len(usable):
            raise ValueError("no task in the replay buffer has a valid step in its first rollout")
        oldest = len(sampler.counts) - self.config.recent_tasks
        rng = stream(self._seed, "batches", self._updates)
        schedule = self.config.lr, self._updates, self.config.lr_halving
        adam.halve_step_size(self._adam, *schedule)
        totals = torch.zeros(len(METRICS), device=self.device)
        for _ in range(count):
            tasks = _choose_tasks(rng, usable, oldest, self.config.tasks_per_step)
            batch = self._batch(rng, sampler, tasks, tasks >= oldest)
            found = losses.compute(self.networks, self.params, self.target, batch)
            self._descend(found.critic + found.actor + found.temperature)
            numbers = vars(found)
            totals += torch.stack([numbers[name].detach() for name in METRICS.values()])
        means = dict(zip(METRICS, (totals.double() / count).tolist(), strict=True))
        if not self.config.decoder_weight:
            del means["update/reward_error"]
        temperature = self.params[losses.TEMPERATURE].detach().exp()
        means["update/temperature"] = float(temperature.mean())
        return {**means, "update/gradient_steps": float(count)}

    def _batch(
        self,
        rng: np.random.Generator,
        sampler: TransitionSampler,
        tasks: np.ndarray,
        recent: np.ndarray,
    ) -> losses.Batch:
        config, action_size = self.config, self.networks.action_size
        valid = None
        if config.guess == "step":
            context, valid = sampler.sample_beginnings(rng, tasks, config.context_size)
            valid = valid.to(self.device, non_blocking=True)
        else:
            context = sampler.sample_context(rng, tasks, config.context_size)
        steps = sampler.sample(rng, tasks, config.steps_per_task)
        size = len(tasks), config.latent_size
        own = [
            rng.standard_normal(shape, np.float32)
            for shape in (size, (2, *steps.reward.shape, action_size))
        ]
        drawn = [torch.from_numpy(each) for each in (recent, *own)]
        tensors = (each.to(self.device, non_blocking=True) for each in drawn)
        data = steps.to(self.device), context.to(self.device)
        return losses.Batch(
            *data,
            *tensors,
            config.target_entropy_at(self._updates),
            valid=valid,
            reward_moments=sampler.reward_moments,
        )

    def _descend(self, loss: Tensor) -> None:
        """Takes a step of Adam, and lets the target critics follow."""
        gradient = torch.autograd.grad(loss, list(self.params.values()))
        for value, own in zip(self.params.values(), gradient, strict=True):
            value.grad = own
        for group in GROUPS:
            own = [value for name, value in self.params.items() if name.split("/")[0] in group]
            torch.nn.utils.clip_grad_norm_(own, self.config.max_gradient)
        self._adam.step()
        with torch.no_grad():
            followed = [self.params[name] for name in self.target]
            torch._foreach_lerp_(list(self.target.values()), followed, self.config.target_rate)


def _critics(params: Params) -> Params:
    return {name: value for name, value in params.items() if name.split("/")[0] in CRITICS}


def _copy(values: Params) -> Params:
    return {name: value.detach().clone() for name, value in values.items()}


def _transitions(rollout: Rollout) -> tuple[Transitions, Tensor]:
    """Returns all transitions of a rollout (N, E * T), and the mask (N, E * T) of valid ones."""
    entries, size = to_entries([rollout]), rollout.valid.shape
    names = ("obs", "action", "reward")
    obs, action, reward = (entries[name].unflatten(0, size[:2]) for name in names)
    last = torch.arange(size[2]) == entries["length"].view(*size[:2], 1) - 1
    steps = Transitions(
        obs=obs[:, :, :-1].flatten(1, 2),
        action=action.flatten(1, 2),
        reward=reward.flatten(1, 2),
        next_obs=obs[:, :, 1:].flatten(1, 2),
        terminal=(last & rollout.terminated.unsqueeze(-1)).flatten(1, 2),
    )
    return steps, rollout.valid.flatten(1)


def _choose_tasks(
    rng: np.random.Generator, usable: np.ndarray, oldest: int, count: int
) -> np.ndarray:
    """Draws tasks (B,): half of those from `oldest` on, the others of all usable ones (L,)."""
    recent = usable[usable >= oldest]
    sources = (recent if len(recent) else usable, (count + 1) // 2), (usable, count // 2)
    return np.concatenate([source[rng.integers(len(source), size=n)] for source, n in sources])
