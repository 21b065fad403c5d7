"""The newest trials, from which the encoder learns, as an immutable value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from metarl.core.rollout import Params, Rollout
from metarl.functional.params import check_state
from metarl.sampling.sequences import Sequences

_NAMES = ("obs", "action", "reward", "next_obs", "first", "valid", "acted")


@dataclass(frozen=True)
class TrialBuffer:
    """C trials of up to L steps, the newest last; a place without a step is empty.

    Entries after the end of a trial are zero. See `Sequences` for the attributes.

    Attributes:
        obs: Unscaled (C, L, S).
        action: (C, L, A).
        reward: (C, L) [of the learner's unit].
        next_obs: Unscaled observation after the action, the last one of its episode too (C, L, S).
        first: (C, L).
        valid: (C, L).
        acted: (C, L).
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    first: Tensor
    valid: Tensor
    acted: Tensor

    @staticmethod
    def empty(capacity: int, obs_size: int, action_size: int) -> TrialBuffer:
        """Returns C empty places."""
        numbers, flags = torch.zeros(capacity, 1), torch.zeros(capacity, 1, dtype=torch.bool)
        obs = torch.zeros(capacity, 1, obs_size)
        action = torch.zeros(capacity, 1, action_size)
        return TrialBuffer(obs, action, numbers, obs, *[flags] * 3)

    @staticmethod
    def of(rollouts: Sequence[Rollout]) -> TrialBuffer:
        """Returns the trials of K + 1 rollouts."""
        steps = Sequences.of(rollouts)
        later = Sequences.of([replace(each, obs=_next_obs(each)) for each in rollouts]).obs
        is_known = later.isfinite()  # that of a task that ended may be anything
        valid = steps.valid & is_known.all(dim=-1)
        later = torch.where(is_known, later, steps.obs)
        joined = {**vars(steps), "next_obs": later, "valid": valid}
        kept = {name: joined[name].transpose(0, 1) for name in _NAMES}
        mask = kept["acted"]
        flat = {n: v & mask if v.dtype == torch.bool else _masked(v, mask) for n, v in kept.items()}
        return TrialBuffer(**{name: value.contiguous() for name, value in flat.items()})

    def append(self, other: TrialBuffer) -> TrialBuffer:
        """Returns the buffer with other trials, of which the oldest leave it."""
        capacity, length = len(self.acted), max(self.acted.shape[1], other.acted.shape[1])
        one, two = (vars(each.padded(length)) for each in (self, other))
        return TrialBuffer(**{n: torch.cat([one[n], two[n]])[-capacity:] for n in _NAMES})

    def padded(self, length: int) -> TrialBuffer:
        """Returns the trials with empty steps up to L = length behind them."""
        more = length - self.acted.shape[1]
        if more == 0:
            return self
        own = self._parts()
        pads = {n: (0,) * 2 * (v.dim() - 2) + (0, more) for n, v in own.items()}
        return TrialBuffer(**{name: functional.pad(v, pads[name]) for name, v in own.items()})

    def _parts(self) -> Params:
        """Returns the tensors by name, without what is computed from them."""
        return {name: vars(self)[name] for name in _NAMES}

    @cached_property
    def lengths(self) -> Tensor:
        """Steps (C,) in which the policy acted; 0 in an empty place."""
        return self.acted.sum(dim=1)

    @property
    def count(self) -> int:
        """Number of trials."""
        return int((self.lengths > 0).sum())

    def rows(self, index: Tensor) -> TrialBuffer:
        """Returns the trials index (B,), counted from the oldest, up to the end of the longest."""
        index = index + (len(self.acted) - self.count)
        length = int(self.lengths[index].max())
        return TrialBuffer(**{n: v[index, :length] for n, v in self._parts().items()})

    def to(self, device: torch.device | str) -> TrialBuffer:
        """Returns the trials, which are on the CPU, on a device, without waiting for it."""
        moved = {n: v.to(device, non_blocking=True) for n, v in self._parts().items()}
        return TrialBuffer(**moved)

    def previous(self) -> Tensor:
        """Returns previous action and reward, and done (L, C, A + 2), as `Sequences` does."""
        before = torch.cat([self.action, self.reward.unsqueeze(-1)], dim=-1)
        before = functional.pad(before, (0, 0, 1, 0))[:, :-1]
        done = self.first.to(before.dtype).unsqueeze(-1)
        return torch.cat([before, done], dim=-1).transpose(0, 1)

    def state(self) -> Params:
        """Returns the entries `buffer/...` of a state_dict."""
        return {f"buffer/{name}": value for name, value in self._parts().items()}

    @staticmethod
    def of_state(state: Mapping[str, Tensor]) -> TrialBuffer:
        """Reads the entries of `state` back."""
        return TrialBuffer(**{name: state[f"buffer/{name}"].clone() for name in _NAMES})

    def check(self, state: Mapping[str, Tensor]) -> None:
        """Raises if the entries of `state` are not C trials of such observations and actions.

        Raises:
            ValueError: An entry is missing, has another shape or is not finite; names it.
        """
        given = state.get("buffer/reward")
        length = given.shape[1] if given is not None and given.dim() == 2 else 0
        shapes = {
            n: v[:, :1].expand(-1, max(length, 1), *v.shape[2:]) for n, v in self.state().items()
        }
        check_state(state, shapes)


def _masked(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask if values.dim() == 2 else mask.unsqueeze(-1), values, 0.0)


def _next_obs(rollout: Rollout) -> Tensor:
    """Returns the observation after every valid step (N, E, T, S)."""
    found = rollout.obs.roll(-1, dims=2)
    last = (rollout.valid.sum(dim=2) - 1).clamp(min=0)
    index = last[..., None, None].expand(-1, -1, 1, found.shape[-1])
    return found.scatter(2, index, rollout.last_obs.unsqueeze(2))
