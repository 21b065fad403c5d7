"""Records that MAML-TRPO passes between its verbs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from metarl.core.machine.parallel import ALONE, Group, Result, map_chunks
from metarl.core.rollout import Params
from metarl.learners.maml.surrogates import Batch


@dataclass(frozen=True)
class MamlContext:
    """Adapted parameters of each task, and what the update needs of the adaptations.

    Attributes:
        params: theta_k, each value (N, *shape), on the learner's device.
        acting: The same on the CPU, and values precomputed for sampling.
        points: theta_0 .. theta_{k-1}.
        batches: The k rollouts that the tasks were adapted to.
        spreads: Of the returns and of the baseline's residuals (N, 2, 3), for each of them.
    """

    params: Params
    acting: Params
    points: tuple[Params, ...] = ()
    batches: tuple[Batch, ...] = ()
    spreads: tuple[Tensor, ...] = ()

    def slice_tasks(self, start: int, stop: int) -> MamlContext:
        """Returns what acting in the tasks start..stop needs, as views."""
        return MamlContext({}, {n: v[start:stop] for n, v in self.acting.items()})


def join_contexts(parts: Sequence[MamlContext], device: torch.device) -> MamlContext:
    """Returns the context of all tasks but `acting`, on a device, from neighbouring tasks."""

    def join(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(tensors)).to(device)

    def join_params(params: Sequence[Params]) -> Params:
        return {n: join([each[n] for each in params]) for n in params[0]}

    def join_batches(batches: Sequence[Batch]) -> Batch:
        return Batch(**{n: join([vars(each)[n] for each in batches]) for n in vars(batches[0])})

    return MamlContext(
        join_params([part.params for part in parts]),
        {},
        tuple(map(join_params, zip(*(part.points for part in parts), strict=True))),
        tuple(map(join_batches, zip(*(part.batches for part in parts), strict=True))),
        tuple(map(join, zip(*(part.spreads for part in parts), strict=True))),
    )


@dataclass(frozen=True)
class Chunk:
    """A slice of the tasks with the policies that sampled their rollouts.

    Attributes:
        start: First task.
        stop: One past the last task.
        points: theta_0 .. theta_K of these tasks.
        output: Of the network at theta_K on the last rollout (n, E * T, A).
    """

    start: int
    stop: int
    points: tuple[Params, ...]
    output: Tensor


@dataclass(frozen=True)
class Trial:
    """Rollouts of a trial and the policies that sampled them.

    Attributes:
        chunks: Slices of the tasks, those of this process.
        batches: The K + 1 rollouts of all tasks.
        returns: Mean return of each task in the last rollout (N,), float64, on the CPU; NaN where
            every simulation failed.
        group: The processes that have the chunks of all tasks.
    """

    chunks: Sequence[Chunk]
    batches: Sequence[Batch]
    returns: Tensor
    group: Group = ALONE

    @property
    def num_tasks(self) -> int:
        """N."""
        return len(self.batches[0].obs)

    def map(self, function: Callable[[Chunk], Result], num_threads: int) -> list[Result]:
        """Applies a function to the chunks of all processes; returns the results in order."""
        gathered = self.group.gather(lambda: map_chunks(function, self.chunks, num_threads))
        return [result for results in gathered for result in results]

    def batches_of(self, chunk: Chunk) -> list[Batch]:
        """Returns the rollouts of the chunk's tasks."""
        return [batch.slice_tasks(chunk.start, chunk.stop) for batch in self.batches]

    def standardised_returns(self) -> Tensor:
        """Returns the returns minus their mean [standard deviations over the tasks] (N,).

        A task without a return has 0.
        """
        known = ~self.returns.isnan()
        centred = self.returns[known] - self.returns[known].mean()
        scaled = torch.zeros_like(self.returns)
        scaled[known] = centred / centred.square().mean().sqrt().clamp(min=1e-8)
        return scaled.to(self.batches[0].advantage, non_blocking=True)


@dataclass(frozen=True)
class OuterStep:
    """A meta-update that has not been made yet.

    Attributes:
        params: Meta-parameters after it.
        metrics: Numbers about it; empty if there was none.
    """

    params: Params
    metrics: Mapping[str, float] = field(default_factory=dict)
