"""State of a learner: network, optimisers and running moments, which an update changes at once."""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from metarl.core.rollout import Params
from metarl.functional.params import check_state, check_updated, to_cpu
from metarl.functional.running_moments import Moments
from metarl.learners import adam
from metarl.learners.reward_unit import RewardUnit
from metarl.networks.distributions import Distribution, clamp_

N = TypeVar("N", bound=nn.Module)


class TrainingState(Generic[N]):
    """Everything of a learner that updates change, to be saved, restored, and changed at once.

    Args:
        network: Its parameters are those of the learner.
        device: Where it is trained.
        distribution: Over actions.
        own: Names of the distribution's parameters in the network, by their names in the
            distribution.
        adams: Optimisers by name -> (beginnings of the names of their parameters, step size).
        moments: Running moments by name.
        values: Other tensors by name, on the CPU, which are replaced and never changed in place.

    Attributes:
        network: On the device.
        acting: A copy on the CPU, for acting.
        updates: Updates so far.
        reward_unit: In which rewards are read.
    """

    def __init__(
        self,
        network: N,
        device: torch.device,
        distribution: Distribution,
        own: Mapping[str, str],
        *,
        adams: Mapping[str, tuple[tuple[str, ...], float]],
        moments: Mapping[str, Moments],
        values: Mapping[str, Tensor] | None = None,
    ):
        self.acting, self.network = copy.deepcopy(network).cpu(), network.to(device)
        self._distribution, self._own = distribution, dict(own)
        self.adams: dict[str, torch.optim.Optimizer] = {}
        self._first_lrs = {name: lr for name, (_, lr) in adams.items()}
        for name, (starts, lr) in adams.items():
            parameters = [v for n, v in self.network.named_parameters() if n.startswith(starts)]
            self.adams[name] = torch.optim.Adam(parameters, lr=lr, eps=1e-5)
            adam.begin(self.adams[name])
        self.moments, self.values, self.updates = dict(moments), dict(values or {}), 0
        self.reward_unit = RewardUnit()

    @contextmanager
    def update(self) -> Generator[None]:
        """Makes the changes within the block one update: all of them, or none if it raises.

        Raises:
            FloatingPointError: A result is not finite; names the tensor.
        """
        before = self.state_dict()
        try:
            yield
            check_updated(self._device_state())
            check_updated(self._cpu_state())
            self.updates += 1
            self._refresh_acting()
        except BaseException:  # also Ctrl-C
            self._restore(before)
            raise

    def state_dict(self) -> dict[str, Tensor]:
        """Returns a copy of everything, on the CPU."""
        state = self._device_state() | self._cpu_state()
        for name, each in self.adams.items():
            state[f"adam/steps/{name}"] = adam.num_steps(each)
            lr = each.param_groups[0]["lr"]
            state[f"adam/lr/{name}"] = torch.tensor(lr, dtype=torch.float64)
        state["updates"] = torch.tensor(self.updates)
        return {name: value.detach().clone() for name, value in to_cpu(state).items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores a state_dict().

        Raises:
            ValueError: A tensor is missing or has another shape; names it. Nothing has changed.
        """
        state = RewardUnit.complete(state)
        check_state(state, self.state_dict())
        self._restore(state)

    def reset_schedule(self) -> None:
        """Sets the step sizes and the number of updates to the first ones; see `HasSchedule`."""
        for name, lr in self._first_lrs.items():
            self.adams[name].param_groups[0]["lr"] = lr
        self.updates = 0

    def _names(self) -> dict[str, Tensor]:
        """Returns the parameters by name: those of the submodule a are a/..."""
        return {n.replace(".", "/", 1): v for n, v in self.network.named_parameters()}

    def _device_state(self) -> Params:
        """Returns the parameters and Adam's moments, where they are."""
        state: Params = self._names()
        names = {value: name for name, value in state.items()}
        for each in self.adams.values():
            state = state | adam.moments(each, names)
        return state

    def _cpu_state(self) -> Params:
        """Returns the running moments, the unit of the rewards and the other values."""
        state = self.values | self.reward_unit.state()
        for name, each in self.moments.items():
            state |= each.state(name)
        return state

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        """Restores a state that fits, in place."""
        for name, value in self._device_state().items():
            value.data.copy_(state[name])
        named = dict(self.network.named_parameters())
        clamp_(self._distribution, {own: named[name] for own, name in self._own.items()})
        for name, each in self.adams.items():
            adam.restore_steps(each, state[f"adam/steps/{name}"])
            each.param_groups[0]["lr"] = float(state[f"adam/lr/{name}"])
        self.moments = {name: Moments.of(state, name) for name in self.moments}
        self.values = {n: state[n].to(v.dtype, copy=True) for n, v in self.values.items()}
        self.reward_unit = RewardUnit.of(state)
        self.updates = int(state["updates"])
        self._refresh_acting()

    def _refresh_acting(self) -> None:
        self.acting.load_state_dict(to_cpu(dict(self.network.named_parameters())))
