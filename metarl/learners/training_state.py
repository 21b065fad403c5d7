"""State of a learner: network, optimisers and running moments, which an update changes at once."""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Optimiser:
    """Adam of some parameters, and the names of its entries in a state_dict().

    Attributes:
        parameters: Of the network, before it is moved to its device.
        lr: First step size.
        steps: Entry of the number of steps; {} becomes the name of the optimiser.
        step_size: Entry of the step size, likewise; None leaves it out, as it never changes.
        prefix: Put before the names of the parameters in the entries of Adam's moments, which tells
            optimisers of the same parameters apart.
        fused: Take a step as one kernel.
    """

    parameters: Sequence[nn.Parameter]
    lr: float
    steps: str = "adam/steps/{}"
    step_size: str | None = "adam/lr/{}"
    prefix: str = ""
    fused: bool = False

    def build(self, parameters: Sequence[Tensor], device: torch.device) -> torch.optim.Optimizer:
        """Builds Adam before its first step, of the parameters on the device."""
        fused = self.fused or None  # with False, Adam takes one step for each parameter
        built = torch.optim.Adam(parameters, lr=self.lr, eps=1e-5, fused=fused)
        adam.begin(built, device if fused else "cpu")
        return built


class TrainingState(Generic[N]):
    """Everything of a learner that updates change, to be saved, restored, and changed at once.

    Args:
        network: Its parameters are those of the learner.
        device: Where it is trained.
        distribution: Over actions.
        own: The distribution's own parameters in the network, by their names in the distribution.
        adams: Optimisers by name.
        moments: Running moments by name.
        values: Other tensors by name, on the CPU, which are replaced and never changed in place.
        prefix: Put before the names of all parameters in their entries; without one, those of a
            submodule a are a/..., also in the entries of Adam's moments.

    Attributes:
        network: On the device.
        acting: For acting, on the CPU: the network itself where that is the device, else a copy.
        scales: Of the moments (`Moments.scale`) by name, which acting uses until the next update.
        updates: Updates so far.
        reward_unit: In which rewards are read.
    """

    def __init__(
        self,
        network: N,
        device: torch.device,
        distribution: Distribution,
        own: Params,
        *,
        adams: Mapping[str, Optimiser],
        moments: Mapping[str, Moments],
        values: Mapping[str, Tensor] | None = None,
        prefix: str = "",
    ):
        if device.type == "cuda":
            # TF32 in cuDNN's recurrent networks, on by default, breaks the probability ratio
            torch.backends.cudnn.allow_tf32 = False
        self.acting = network if device.type == "cpu" else copy.deepcopy(network).cpu()
        before = _name_parameters(network, prefix)
        self.network, self._prefix = network.to(device), prefix
        self._names = _name_parameters(self.network, prefix)
        self._distribution = distribution
        self._own = {name: prefix + before[value] for name, value in own.items()}
        # a module may have other parameters on another device
        moved = {name: value for value, name in self._names.items()}
        self._optimisers = dict(adams)
        self.adams = {
            name: each.build([moved[before[value]] for value in each.parameters], device)
            for name, each in adams.items()
        }
        self.moments, self.values, self.updates = dict(moments), dict(values or {}), 0
        self.scales = {name: each.scale() for name, each in self.moments.items()}
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
            state[self._optimisers[name].steps.format(name)] = adam.num_steps(each)
        for entry, group in self._step_sizes():
            state[entry] = torch.tensor(group["lr"], dtype=torch.float64)
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
        for name, each in self._optimisers.items():
            self.adams[name].param_groups[0]["lr"] = each.lr
        self.updates = 0

    def _step_sizes(self) -> Generator[tuple[str, dict]]:
        """Yields the entry of each step size that has one, and the optimiser's group with it."""
        for name, each in self._optimisers.items():
            if each.step_size is not None:
                yield each.step_size.format(name), self.adams[name].param_groups[0]

    def _device_state(self) -> Params:
        """Returns the parameters and Adam's moments, where they are."""
        state: Params = {self._prefix + name: value for value, name in self._names.items()}
        for name, each in self.adams.items():
            start = self._optimisers[name].prefix
            state |= adam.moments(each, {value: start + n for value, n in self._names.items()})
        return state

    def _cpu_state(self) -> Params:
        """Returns the running moments, the unit of the rewards and the other values."""
        state = self.values | self.reward_unit.state()
        for name, each in self.moments.items():
            state |= each.state(name)
        return state

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        """Restores a state that fits; in place, because a GPU may have no memory left."""
        own = {name: state[entry].clone() for name, entry in self._own.items()}
        clamp_(self._distribution, own)
        state = {**state, **{self._own[name]: value for name, value in own.items()}}
        for name, value in self._device_state().items():
            value.data.copy_(state[name])
        for name, each in self.adams.items():
            adam.restore_steps(each, state[self._optimisers[name].steps.format(name)])
        for entry, group in self._step_sizes():
            group["lr"] = float(state[entry])
        self.moments = {name: Moments.of(state, name) for name in self.moments}
        self.values = {n: state[n].to(v.dtype, copy=True) for n, v in self.values.items()}
        self.reward_unit = RewardUnit.of(state)
        self.updates = int(state["updates"])
        self._refresh_acting()

    def _refresh_acting(self) -> None:
        """Makes acting use the newest parameters and moments."""
        self.scales = {name: each.scale() for name, each in self.moments.items()}
        if self.acting is self.network:
            return
        newest = to_cpu(dict(self.network.named_parameters()))
        for name, value in self.acting.named_parameters():
            value.data.copy_(newest[name])


def _name_parameters(network: nn.Module, prefix: str) -> dict[Tensor, str]:
    """Returns the name of each parameter: without a prefix those of a submodule a are a/..."""
    return {
        value: name if prefix else name.replace(".", "/", 1)
        for name, value in network.named_parameters()
    }
