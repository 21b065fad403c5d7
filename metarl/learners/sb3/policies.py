"""Policies of Stable-Baselines3 in a trial: `begin`, `act` and `adapt` of a Learner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metarl.core.learner import TaskRngs
from metarl.core.rollout import Action, Feedback, Rollout
from metarl.functional.gaussian import log_prob_of_noise
from metarl.learners.sb3.model import Member


class FeedForward:
    """Policies without memory: one for all tasks, or one for each.

    Args:
        members: One model, or one for each of the N tasks of a trial, in their order.
    """

    def __init__(self, members: Sequence[Member]):
        self._members = members

    def begin(self, num_tasks: int, num_episodes: int, rngs: TaskRngs) -> None:
        """Checks the number of tasks; there is no context.

        Raises:
            ValueError: There are more tasks than policies.
        """
        if 1 < len(self._members) < num_tasks:
            raise ValueError(f"{len(self._members)} tasks were trained on, not {num_tasks}")

    def act(
        self,
        context: None,
        obs: Tensor,
        noise: Tensor,
        feedback: Feedback | None = None,
        *,
        explore: bool,
    ) -> tuple[Action, None]:
        """Draws actions (N, E, A) for obs (N, E, S), or takes the modes."""
        del feedback
        if len(self._members) == 1:
            mean, log_std = _head(self._members[0], obs)
        else:
            pairs = [_head(m, o) for m, o in zip(self._members, obs, strict=False)]
            mean, log_std = (torch.stack(values) for values in zip(*pairs, strict=True))
        return _choose(mean, log_std, noise, explore=explore), context

    def adapt(self, context: None, rollout: Rollout, rngs: TaskRngs) -> None:
        """Returns the context unchanged: these policies do not adapt."""
        return context


def _head(member: Member, obs: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and log standard deviation (..., A) for obs (..., S)."""
    policy = member.model.policy
    flat = torch.from_numpy(member.normalize(obs.reshape(-1, obs.shape[-1]).numpy()))
    normal = policy.get_distribution(flat.to(policy.device)).distribution
    shape = (*obs.shape[:-1], -1)
    return normal.mean.cpu().view(shape), normal.stddev.log().cpu().view(shape)


def _choose(mean: Tensor, log_std: Tensor, noise: Tensor, *, explore: bool) -> Action:
    if not explore:
        return Action(mean, torch.zeros(mean.shape[:2]))
    return Action(mean + log_std.exp() * noise, log_prob_of_noise(noise, log_std))


@dataclass(frozen=True)
class Memory:
    """State of RL^2 in a trial.

    Attributes:
        hidden: (N, E, H) of the LSTM.
        cell: (N, E, H).
        action: (N, E, A) the previous one sent, within the Box of actions.
        reward: (N, E) the previous one, raw.
        later: (N, E) 1 at the first step of an episode that is not the first of its trial.
    """

    hidden: Tensor
    cell: Tensor
    action: Tensor
    reward: Tensor
    later: Tensor


class Recurrent:
    """A recurrent policy that observes its previous action and reward, and the start of an episode.

    Args:
        member: The model, trained on observations as `metarl.envs.wrappers.trials.Trials` makes
            them.
    """

    def __init__(self, member: Member):
        self._member = member

    def begin(self, num_tasks: int, num_episodes: int, rngs: TaskRngs) -> Memory:
        """Returns a memory of zeros."""
        policy, space = self._member.model.policy, self._member.model.action_space
        size = (num_tasks, num_episodes)
        states = [torch.zeros(*size, policy.lstm_actor.hidden_size) for _ in range(2)]
        action = torch.zeros(*size, *space.shape)
        return Memory(*states, action, torch.zeros(size), torch.zeros(size))

    def act(
        self,
        context: Memory,
        obs: Tensor,
        noise: Tensor,
        feedback: Feedback | None = None,
        *,
        explore: bool,
    ) -> tuple[Action, Memory]:
        """Draws actions (N, E, A) for obs (N, E, S), or takes the modes."""
        if feedback is not None:
            reward = torch.where(feedback.alive, feedback.reward, context.reward)
            later = torch.where(feedback.alive, 0.0, context.later)
            context = replace(context, reward=reward, later=later)
        model = self._member.model
        policy, space = model.policy, model.action_space
        columns = (obs, context.action, context.reward[..., None], context.later[..., None])
        inputs = torch.cat(columns, dim=2)
        rows = inputs.shape[0] * inputs.shape[1]
        states = tuple(
            s.reshape(1, rows, -1).to(policy.device) for s in (context.hidden, context.cell)
        )
        starts = torch.zeros(rows, device=policy.device)
        flat = inputs.view(rows, -1).to(policy.device)
        normal, states = policy.get_distribution(flat, states, starts)
        shape = (*inputs.shape[:2], -1)
        mean = normal.distribution.mean.cpu().view(shape)
        log_std = normal.distribution.stddev.log().cpu().view(shape)
        chosen = _choose(mean, log_std, noise, explore=explore)
        low, high = (torch.from_numpy(bound) for bound in (space.low, space.high))
        hidden, cell = (s.cpu().view(shape) for s in states)
        sent = chosen.value.clamp(low, high)  # as SB3 sends it, hence as in training
        after = replace(context, hidden=hidden, cell=cell, action=sent)
        return chosen, after if feedback is None else _select(feedback.alive, after, context)

    def adapt(self, context: Memory, rollout: Rollout, rngs: TaskRngs) -> Memory:
        """Adds each episode's last reward to the memory, and marks the start of the next one."""
        last = (rollout.valid.sum(dim=2, keepdim=True) - 1).clamp(min=0)
        reward = rollout.reward.gather(2, last).squeeze(2)
        reward = torch.where(rollout.truncated, 0.0, reward)
        return replace(context, reward=reward, later=torch.ones_like(reward))


def _select(alive: Tensor, after: Memory, before: Memory) -> Memory:
    """Returns the memory `after` where the mask alive (N, E) is True, else `before`."""
    old = vars(before)
    return Memory(
        **{
            name: torch.where(alive if new.ndim == 2 else alive[..., None], new, old[name])
            for name, new in vars(after).items()
        }
    )
