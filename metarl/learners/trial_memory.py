"""Policies whose memory lasts a whole trial: their context, and the check before an update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.core.rollout import Action, Feedback, Params, Rollout
from metarl.functional.ppo import check_ratio, nudge
from metarl.networks.distributions import Distribution
from metarl.networks.memories.memory import Memory, State, join_states
from metarl.sampling.sequences import Sequences


@dataclass(frozen=True)
class TrialContext:
    """Memory of each trial, and the memory's next inputs beside the observation.

    Attributes:
        state: Of the memory, with rows (N * E) first.
        action: Previous action (N, E, A); 0 at the start of a trial and after a failed simulation.
        reward: Raw reward of the previous action (N, E); see `inputs`.
        done: 1 at the first step of an episode after the trial's first one (N, E), else 0.
    """

    state: State
    action: Tensor
    reward: Tensor
    done: Tensor

    @staticmethod
    def initial(memory: Memory, size: tuple[int, int], action_size: int) -> TrialContext:
        """Returns an empty memory for each of size = (N, E) trials."""
        zero = torch.zeros(size)
        return TrialContext(
            memory.initial(size[0] * size[1]), torch.zeros(*size, action_size), zero, zero
        )

    def slice_tasks(self, start: int, stop: int) -> TrialContext:
        """Returns the context of the tasks start..stop, as views."""
        episodes = self.reward.shape[1]
        state = tuple(part[start * episodes : stop * episodes] for part in self.state)
        own = (part[start:stop] for part in (self.action, self.reward, self.done))
        return TrialContext(state, *own)

    @classmethod
    def join(cls, parts: Sequence[TrialContext]) -> TrialContext:
        """Returns the context of all tasks from those of neighbouring slices."""
        state = join_states([part.state for part in parts])
        rest = zip(*((part.action, part.reward, part.done) for part in parts), strict=True)
        return TrialContext(state, *map(torch.cat, rest))

    def observe(self, feedback: Feedback | None) -> TrialContext:
        """Returns the context with the outcome of the previous action; None changes nothing."""
        if feedback is None:
            return self
        zeros = torch.zeros_like(self.done)
        return TrialContext(self.state, self.action, feedback.reward, zeros)

    def inputs(self, obs: Tensor, reward_factor: float = 1.0) -> Tensor:
        """Returns the memory's inputs (N * E, S + A + 2) with scaled obs (N, E, S).

        The reward is multiplied by a factor; see `RewardUnit`.
        """
        reward = self.reward if reward_factor == 1.0 else self.reward * reward_factor
        previous = [self.action, reward.unsqueeze(-1), self.done.unsqueeze(-1)]
        return torch.cat([obs, *previous], dim=-1).flatten(0, 1)

    def acted(
        self, memory: Memory, state: State, action: Action, feedback: Feedback | None
    ) -> TrialContext:
        """Returns the context after an action; the memory takes a step where the episode lives."""
        if feedback is not None:
            state = memory.keep(self.state, state, feedback.alive.flatten())
        return TrialContext(state, action.value, self.reward, self.done)

    def end_episode(self, rollout: Rollout) -> TrialContext:
        """Keeps the memory, and makes the rollout's last step the memory's next input."""
        last = (rollout.valid.sum(dim=2) + rollout.truncated - 1).unsqueeze(-1)
        index = last.unsqueeze(-1).expand(-1, -1, 1, rollout.action.shape[-1])
        action = rollout.action.gather(2, index).squeeze(2)
        reward = rollout.reward.gather(2, last).squeeze(2)
        return TrialContext(self.state, action, reward, torch.ones_like(reward))


@torch.no_grad()  # a graph of this stream that is alive would make recording on a GPU fail
def check_sampling(
    policy: tuple[Distribution, Params],
    steps: Sequences,
    inputs: Tensor,
    output: Tensor,
    evaluate: Callable[[Tensor], Tensor],
) -> float:
    """Returns the error of the recomputed log-probabilities; see `check_ratio`.

    Args:
        policy: Distribution over actions, and its own parameters.
        steps: The trials (L, M).
        inputs: Of the memory (L, M, I).
        output: Of the actor for them (L, M, A).
        evaluate: Maps other inputs of the memory (L, M, I) to outputs of the actor (L, M, A).

    Raises:
        FloatingPointError: The recomputed policy is not the one that sampled.
    """
    distribution, params = policy

    def log_ratio(output: Tensor) -> Tensor:
        return distribution.log_prob(params, output, steps.action) - steps.log_prob

    def nudged() -> Tensor:
        return log_ratio(evaluate(nudge(inputs)))

    rounding = distribution.log_prob_rounding(params, output, steps.action)
    return check_ratio(log_ratio(output), rounding, steps.valid, nudged)
