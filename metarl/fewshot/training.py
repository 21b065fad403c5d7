"""Trains a few-shot learner, and measures it on held-out tasks."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from metarl.core.machine.parallel import one_torch_thread
from metarl.core.rng import stream
from metarl.core.rollout import Params
from metarl.fewshot.learner import FewShotLearner
from metarl.fewshot.tasks import Problem, score
from metarl.functional.params import find_non_finite, leaves

CHUNK = 50
"""Tasks that are measured at once; it bounds the memory."""


@dataclass(frozen=True)
class Trained:
    """A training.

    Attributes:
        params: Meta-parameters.
        seconds: Wall-clock time of the training [s].
        cpu_seconds: Processor time of the training [s].
    """

    params: Params
    seconds: float
    cpu_seconds: float


def train(learner: FewShotLearner, problem: Problem, iterations: int, seed: int) -> Trained:
    """Trains the meta-parameters with Adam, or with gradient descent, on one thread.

    Args:
        learner: The learner.
        problem: Its tasks.
        iterations: Meta-updates.
        seed: Key of all random numbers.

    Raises:
        FloatingPointError: A loss is not finite, or a parameter at the end; names the iteration.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    params, outer = leaves(learner.initial(stream(seed, "fewshot-initial"))), learner.outer
    kind = torch.optim.SGD if outer.is_sgd else torch.optim.Adam
    optimizer = kind(list(params.values()), lr=outer.step_size)
    with one_torch_thread():
        for iteration in range(iterations):
            tasks = problem.sample(stream(seed, "fewshot-train", iteration), outer.num_tasks)
            loss = learner.loss(params, tasks, stream(seed, "fewshot-loss", iteration))
            if not bool(loss.isfinite()):
                hint = "lower the step sizes"
                raise FloatingPointError(f"iteration {iteration + 1}: loss is not finite; {hint}")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    own = {n: v.detach() for n, v in params.items()}
    if name := find_non_finite(own):  # of an earlier iteration it shows in the next loss
        hint = "lower the step sizes"
        raise FloatingPointError(f"iteration {iterations}: {name!r} is not finite; {hint}")
    return Trained(own, time.perf_counter() - wall, time.process_time() - cpu)


def measure(
    learner: FewShotLearner,
    problem: Problem,
    params: Params,
    num_tasks: int,
    num_steps: int,
    seed: int,
) -> np.ndarray:
    """Returns the scores (K + 1, N) of held-out tasks after 0 .. K = num_steps steps.

    A learner that adapts at once has scores before and after (2, N), or after alone (1, N).

    Args:
        learner: The learner.
        problem: Its tasks.
        params: Meta-parameters.
        num_tasks: N.
        num_steps: K.
        seed: Key of the tasks; all learners with this seed meet the same ones.
    """
    parts = []
    with one_torch_thread(), torch.no_grad():
        for start in range(0, num_tasks, CHUNK):
            rng = stream(seed, "fewshot-test", start)
            tasks = problem.sample(rng, min(CHUNK, num_tasks - start), is_test=True)
            outputs = learner.predict(params, tasks, num_steps)
            parts.append(torch.stack([score(problem, o, tasks.query_y) for o in outputs]))
    return torch.cat(parts, dim=1).double().numpy()
