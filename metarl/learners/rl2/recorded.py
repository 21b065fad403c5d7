"""The gradient of a minibatch on a GPU, recorded once and replayed as one launch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.learners.rl2.gradient import Batch, MinibatchGradient

Run = Callable[[], tuple[list[Tensor], Tensor]]
"""Computes gradients and statistics from tensors at fixed places."""


@dataclass(frozen=True)
class _Recording:
    """A minibatch at a fixed place, and what computes its gradient.

    Attributes:
        batch: Its tensors are overwritten by those of the next minibatch.
        run: Computes the gradient; the result is overwritten by the next call.
    """

    batch: Batch
    run: Run

    def load(self, batch: Batch, index: Tensor) -> None:
        """Copies the trials index (B,) of a batch into the minibatch."""
        for own, other in zip(_used(self.batch), _used(batch), strict=True):
            torch.index_select(other, 1, index, out=own)


def _used(batch: Batch) -> tuple[Tensor, ...]:
    """Returns what the gradient reads of trials that are all of full length."""
    steps = batch.steps
    return batch.inputs, batch.advantage, batch.target, steps.action, steps.log_prob


class RecordedGradient:
    """Computes what `MinibatchGradient` does, without the host's time for each of its kernels.

    A minibatch of RL^2 is hundreds of kernels of microseconds each, which a GPU ends sooner than
    the host launches them. A CUDA graph launches all of them at once. The first minibatch of a
    shape is recorded, and later ones are copied to its place. Trials of unequal length have
    another shape in every minibatch; they are computed as without a recording.

    Args:
        gradient: The gradient; its parameters must stay where they are.
        device: A GPU.
    """

    def __init__(self, gradient: MinibatchGradient, device: torch.device):
        self._gradient, self._device = gradient, device
        self._recordings: dict[tuple[int, ...], _Recording] = {}
        self._is_broken = False
        self.parameters = gradient.parameters

    def shards(self, rows: Tensor) -> list[Tensor]:
        """Returns the rows (B,), which a GPU unrolls at once."""
        return self._gradient.shards(rows)

    def __call__(self, batch: Batch, rows: Tensor) -> tuple[list[Tensor], Tensor]:
        """Returns the gradients of `parameters`, and the STATISTICS of the rows (B,), on the CPU.

        Both are overwritten by the next call.
        """
        if not batch.is_full or self._is_broken:
            return self._gradient(batch, rows)
        shape = len(batch.inputs), len(rows)
        if shape not in self._recordings:
            own = batch.rows(rows)
            self._recordings[shape] = _Recording(own, self._record(own))
        recording = self._recordings[shape]
        recording.load(batch, rows.to(self._device, non_blocking=True))
        return recording.run()

    def _record(self, batch: Batch) -> Run:
        def run() -> tuple[list[Tensor], Tensor]:
            return self._gradient.of_all(batch)

        return self._capture(run) if self._device.type == "cuda" else run

    def _capture(self, run: Run) -> Run:
        """Returns a function that replays the kernels of `run`; `run` itself if that fails."""
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):  # libraries allocate their own memory in a first call
            run()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph, random_state = torch.cuda.CUDAGraph(), torch.cuda.get_rng_state(self._device)
        try:
            with torch.cuda.graph(graph, stream=stream):
                found = run()
        except RuntimeError as error:  # no memory for a second copy, say
            _leave_recording(self._device, random_state)
            self._is_broken = True
            self._recordings.clear()
            cause = error.__context__ or error  # the end of a failed recording raises again
            warnings.warn(f"updates launch kernels one by one: {cause}", stacklevel=2)
            return run

        def replay() -> tuple[list[Tensor], Tensor]:
            graph.replay()
            return found

        return replay


def _leave_recording(device: torch.device, random_state: Tensor) -> None:
    """Gives torch's generator of a GPU a new state: a failed recording leaves it recording."""
    generator = torch.Generator(device)
    generator.set_state(random_state)
    current = torch.cuda.current_device() if device.index is None else device.index
    torch.cuda.default_generators[current].graphsafe_set_state(generator.graphsafe_get_state())
