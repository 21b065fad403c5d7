"""Records that MAML-TRPO passes between its verbs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from metarl.core.rollout import Params
from metarl.functional.trust_region import SearchResult
from metarl.learners.maml.surrogates import Batch


@dataclass(frozen=True)
class MamlContext:
    """Adapted parameters of each task, and what the update needs of the adaptations.

    Attributes:
        params: theta_k, each value (N, *shape), on the learner's device.
        acting: The same on the CPU, and values precomputed for sampling.
        points: theta_0 .. theta_{k-1}.
        batches: The k rollouts that the tasks were adapted to.
        explained: Fraction of the returns' variance that the baseline explains, for each of them.
    """

    params: Params
    acting: Params
    points: tuple[Params, ...] = ()
    batches: tuple[Batch, ...] = ()
    explained: tuple[float, ...] = ()

    def slice_tasks(self, start: int, stop: int) -> MamlContext:
        """Returns what acting in the tasks start..stop needs, as views."""
        return MamlContext({}, {n: v[start:stop] for n, v in self.acting.items()})


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
class OuterStep:
    """A meta-update that has not been made yet.

    Attributes:
        params: theta after it.
        gradient_norm: Of the meta-gradient.
        predicted_gain: First-order change of the objective for the whole step.
        result: Of the line search.
        is_rejected: A step was wanted, and none was accepted.
    """

    params: Params
    gradient_norm: float = 0.0
    predicted_gain: float = 0.0
    result: SearchResult = SearchResult(0.0, 0.0, 0.0, 0)
    is_rejected: bool = False
