"""Measures of a gradient-based adaptation: the layers that move, and steps of different tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.core.env import BatchEnv, supports
from metarl.core.errors import name_failures
from metarl.core.learner import AdaptsParams, SplittableContext
from metarl.core.machine.parallel import one_torch_thread
from metarl.core.rollout import Params, Rollout
from metarl.core.tasks import Variable
from metarl.evaluation.probe import encode_tasks
from metarl.sampling.sampler import Collector, Key

NEAR, FAR = 0.25, 0.75
"""Quantiles of the distances between tasks that bound similar and different pairs."""


def measure_steps(
    env: BatchEnv,
    learner: Any,
    tasks: np.ndarray,
    *,
    num_episodes: int,
    num_adaptations: int,
    key: Key,
    describes_tasks: bool = True,
) -> dict[str, Any]:
    """Adapts to tasks, and compares the parameters before and after.

    Args:
        env: The environment.
        learner: Supports `AdaptsParams`; it is not changed.
        tasks: (N, D), N >= 2.
        num_episodes: E, episodes of an adaptation.
        num_adaptations: K >= 1.
        key: The random streams.
        describes_tasks: The task numbers describe the tasks, so distances have a meaning.

    Returns:
        A tree for JSON; docs/python-api.md describes it.

    Raises:
        NumericalError: An action or a gradient is not finite.
        EnvironmentContractError: A task had no valid step to adapt to.
    """
    num_tasks = len(tasks)
    with name_failures(f"adaptation to {env.spec.name}"), one_torch_thread():
        with closing(Collector(env)) as collector:
            context = learner.begin(num_tasks, num_episodes, key.tasks("begin", 0, num_tasks))
            whole = not supports(context, SplittableContext)
            collector.set_tasks(tasks, num_episodes, whole=whole)
            before, rollouts = learner.read_params(context), []
            for k in range(num_adaptations):
                rollout, context = collector.rollout(learner, context, key, k)
                context = learner.adapt(context, rollout, key.tasks("adapt", k + 1, num_tasks))
                rollouts.append(rollout)
            after = learner.read_params(context)
            layers = compare_layers(learner, before, after, rollouts[0])
    steps = torch.cat([(after[name] - before[name]).flatten(1).cpu() for name in before], dim=1)
    similarity = cosine_similarity(steps)
    variables = env.spec.tasks.variables
    tree = {
        "kind": "parameters",
        "num_tasks": num_tasks,
        "episodes_per_task": num_episodes,
        "num_adaptations": num_adaptations,
        **layers,
        "similarity": [[_finite(value) for value in row] for row in similarity.tolist()],
        "tasks": tasks.tolist(),
        "pairs": compare_pairs(similarity, tasks, variables if describes_tasks else ()),
    }
    return tree | {"sentences": _say(tree)}


def compare_layers(
    learner: AdaptsParams, before: Params, after: Params, rollout: Rollout
) -> dict[str, Any]:
    """Measures the change of every layer, and of the policy if only this layer changed.

    Args:
        learner: The learner.
        before: Parameters before adaptation, each value (N, *shape).
        after: Parameters after adaptation.
        rollout: Its states are those on which the policies are compared.

    Returns:
        `layers`, in the order of the network, and `kl` of the whole change.
    """
    layers = []
    for name, start in before.items():
        change = (after[name] - start).flatten(1).norm(dim=1)
        kl = learner.policy_kl(before, {**before, name: after[name]}, rollout)
        layers.append(
            {
                "name": name,
                "shape": list(start.shape[1:]),
                "change": _spread(change),
                "relative_change": _spread(change / start.flatten(1).norm(dim=1)),
                "kl": _spread(kl),
            }
        )
    return {"layers": layers, "kl": _spread(learner.policy_kl(before, after, rollout))}


def _spread(values: Tensor) -> dict[str, float | None]:
    """Returns mean and standard deviation over tasks (N,); None for numbers that are not finite.

    A layer of zeros has no relative change.
    """
    values = values.double().cpu()
    return {"mean": _finite(float(values.mean())), "std": _finite(float(values.std()))}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def cosine_similarity(steps: Tensor) -> np.ndarray:
    """Returns the cosines (N, N) between steps (N, P); NaN for a step of length zero."""
    steps = steps.double()
    directions = (steps / steps.norm(dim=1, keepdim=True)).numpy()
    return np.clip(directions @ directions.T, -1.0, 1.0)


def compare_pairs(
    similarity: np.ndarray, tasks: np.ndarray, variables: Sequence[Variable]
) -> dict[str, float | None]:
    """Averages the cosines over all pairs of tasks, and over similar and different ones.

    The distance of two tasks is that of their numbers, each scaled to standard deviation 1, with
    angles as points on a circle and categories as corners of a simplex. Similar pairs are the
    quarter with the smallest distances, and all pairs as close; different ones the quarter with the
    largest.

    Args:
        similarity: Cosines (N, N).
        tasks: (N, D).
        variables: The D numbers; () if they do not describe the tasks.

    Returns:
        Mean cosines `all`, `similar` and `different`; None without a finite one, or where all
        distances are equal.
    """
    one, other = np.triu_indices(len(tasks), 1)
    cosines = similarity[one, other]
    result: dict[str, float | None] = {
        "all": _mean_finite(cosines),
        "similar": None,
        "different": None,
    }
    targets = encode_tasks(variables, tasks) if variables else []
    if not targets:
        return result
    scaled = [t.columns / np.sqrt(t.columns.var(axis=0).sum()) for t in targets]
    points = np.concatenate(scaled, axis=1)
    distance = np.linalg.norm(points[one] - points[other], axis=1).round(9)
    near, far = np.quantile(distance, [NEAR, FAR], method="nearest")
    if near == far:
        return result
    similar, different = cosines[distance <= near], cosines[distance >= far]
    return result | {"similar": _mean_finite(similar), "different": _mean_finite(different)}


def _mean_finite(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _say(tree: dict[str, Any]) -> list[str]:
    """Says in a sentence each which layer moved most, which mattered most, and how steps differ."""
    moved, mattered = (_largest(tree["layers"], name) for name in ("relative_change", "kl"))
    sentences = []
    if moved:
        share = 100 * moved["relative_change"]["mean"]
        sentences.append(f"{moved['name']} moved most, by {share:.1f} % of its norm")
    elif moved := _largest(tree["layers"], "change"):
        change = moved["change"]["mean"]
        sentences.append(f"{moved['name']} moved most, by {change:.3g} from zero")
    if mattered:
        alone, total = mattered["kl"]["mean"], tree["kl"]["mean"]
        whole = "" if total is None else f"; all layers together {total:.3g} nats"
        sentences.append(
            f"{mattered['name']} changed the policy most: {alone:.3g} nats by itself{whole}"
        )
    pairs = tree["pairs"]
    if pairs["similar"] is not None and pairs["different"] is not None:
        sentences.append(
            f"steps of similar tasks have cosine {pairs['similar']:.2f}, of different tasks "
            f"{pairs['different']:.2f}"
        )
    return sentences


def _largest(layers: Sequence[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """Returns the layer with the largest mean of a measure, None if no layer has one above 0."""
    known = [layer for layer in layers if layer[name]["mean"]]
    return max(known, key=lambda layer: layer[name]["mean"], default=None)
