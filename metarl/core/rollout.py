"""Notation, and the records that samplers, learners and trainers exchange.

    N tasks in a meta-batch    E episodes (parallel copies) per task    T steps per episode
    K adaptation steps         S observation size    A action size      D task parameters
    Z latent size              H memory size         T is the horizon

A *trial* is K + 1 rollouts of the same N tasks with `adapt` between them. Row `task * E + episode`
of an environment batch is element (task, episode): (N * E, ...) and (N, E, ...) are the same
memory. Learner arrays are task-first: (N, E, T, ...).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Params = dict[str, Tensor]
"""Parameters by name; per-task parameters have values (N, *shape)."""


Metrics = dict[str, float]
"""Numbers of one iteration by name; "/" groups them."""


@dataclass(frozen=True)
class Rollout:
    """One rollout of N tasks x E episodes x T steps; entries of invalid steps are zero.

    Attributes:
        obs: (N, E, T, S) before the action. Where the simulation failed in step t, obs[t] is still
            recorded.
        action: (N, E, T, A) output of the policy, before the environment's scale and clip.
        log_prob: (N, E, T) of the action under the policy that drew it [nats].
        reward: (N, E, T).
        valid: (N, E, T) the step was taken and belongs to the episode.
        terminated: (N, E) the task ended (the robot fell, the goal was reached).
        truncated: (N, E) the simulation failed; the episode ends at the step before. Reaching the
            horizon is neither: the horizon is part of the task, and the baseline has time features.
        last_obs: (N, E, S) after the last valid step: the observation before a failed step, the
            terminal observation, or the one after step T. That of a task that ended may be
            anything, also NaN; see `drop_unknown_ends`.
    """

    obs: Tensor
    action: Tensor
    log_prob: Tensor
    reward: Tensor
    valid: Tensor
    terminated: Tensor
    truncated: Tensor
    last_obs: Tensor

    def to(self, device: torch.device | str) -> Rollout:
        """Returns the rollout, which is on the CPU, on a device, without waiting for it."""
        arrays = vars(self).items()
        return Rollout(**{name: a.to(device, non_blocking=True) for name, a in arrays})

    def returns(self) -> Tensor:
        """Returns the undiscounted return of every episode (N, E), in float64."""
        return self.reward.sum(dim=2, dtype=torch.float64)

    def num_steps(self) -> int:
        """Returns the number of environment steps taken."""
        return int(self.valid.sum())


def drop_unknown_ends(rollout: Rollout) -> Rollout:
    """Returns a rollout whose transitions are all finite, for learners that read `last_obs`.

    Where the last observation is not finite, the last step is not valid, and its own observation,
    which followed on the step before, is the last one.
    """
    unknown = ~rollout.last_obs.isfinite().all(dim=2)
    if not bool(unknown.any()):
        return rollout
    last = (rollout.valid.sum(dim=2) - 1).clamp(min=0)[..., None, None]
    before = rollout.obs.gather(2, last.expand(-1, -1, 1, rollout.obs.shape[3])).squeeze(2)
    last_obs = torch.where(unknown.unsqueeze(-1), before, rollout.last_obs)
    steps = torch.arange(rollout.valid.shape[2], device=last.device)
    is_last = steps == last.squeeze(-1)
    valid = rollout.valid & ~(is_last & unknown.unsqueeze(-1))
    return replace(rollout, last_obs=last_obs, valid=valid)


def require_steps(rollouts: Sequence[Rollout]) -> None:
    """Raises ValueError if no step of any of the rollouts is valid."""
    if not any(bool(rollout.valid.any()) for rollout in rollouts):
        raise ValueError("no episode has a valid step to learn from")


@dataclass(frozen=True)
class Action:
    """Actions of a policy for one step.

    Attributes:
        value: (N, E, A).
        log_prob: (N, E) [nats]; 0 for the mode of the policy (explore=False).
    """

    value: Tensor
    log_prob: Tensor


@dataclass(frozen=True)
class Feedback:
    """Outcome of the previous action of every episode.

    Attributes:
        reward: (N, E) as the environment gave it; 0 where it was not stepped.
        alive: (N, E) the episode goes on.
    """

    reward: Tensor
    alive: Tensor


@dataclass(frozen=True)
class Iteration:
    """Summary of one iteration of training.

    Attributes:
        steps: Environment steps taken.
        returns: Mean return of each rollout of a trial.
        length: Mean steps of an episode of the last rollout.
        terminated: Fraction of its episodes that the task ended.
        faults: Episodes, of all rollouts, in which the simulation failed.
        metrics: Numbers of the update.
        collect: Time spent on experience [s].
        update: Time spent on learning from it [s].
    """

    steps: int
    returns: Sequence[float]
    length: float
    terminated: float
    faults: float
    metrics: Metrics
    collect: float
    update: float
