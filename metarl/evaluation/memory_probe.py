"""Probes of a policy's memory: the task numbers that can be read from it, step by step of a trial.

The same probe on the memory's inputs of the current step shows what the present observation alone
tells, so the difference is remembered.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch

from metarl.core.env import BatchEnv
from metarl.core.errors import name_failures
from metarl.core.learner import HasMemory
from metarl.core.machine.parallel import map_chunks, one_torch_thread
from metarl.core.rng import stream
from metarl.core.rollout import Rollout
from metarl.core.tasks import Variable
from metarl.evaluation.probe import (
    Score,
    Target,
    choose_folds,
    draw_resamples,
    encode_tasks,
    exchange_tasks,
    probe,
)
from metarl.evaluation.table import format_steps
from metarl.sampling.sampler import Collector, Key

SHUFFLES = 20
"""Probes of exchanged tasks; the largest but one of their scores is shown."""

POINTS = 32
"""Steps of an episode that are probed at most; they are denser at its start."""

ACCURACY = 0.9
"""Accuracy from which a category counts as known, if it is reached."""

KNOWN = {"accuracy": 0.9, "R^2": 0.8}
"""Largest score from which on a number counts as known, and not as partly known."""

_CHUNK = 25
"""Tasks whose memory is read at once."""


def probe_memory(
    env: BatchEnv,
    learner: Any,
    tasks: np.ndarray,
    *,
    num_episodes: int,
    num_adaptations: int,
    key: Key,
    num_threads: int = 1,
) -> dict[str, Any]:
    """Plays one trial with policy noise, and probes the memory for every task number.

    Args:
        env: The environment; its tasks are numbers that describe them.
        learner: Supports `HasMemory`; it is not changed.
        tasks: (N, D), with N >= 4 NUM_FOLDS.
        num_episodes: E, independent trials of each task.
        num_adaptations: K; a trial has K + 1 episodes.
        key: The random streams.
        num_threads: Threads over the steps; the result does not depend on it.

    Returns:
        A tree for JSON; docs/python-api.md describes it.

    Raises:
        NumericalError: An action is not finite.
        EnvironmentContractError: A number of the environment is not finite.
    """
    with name_failures(f"probe of {env.spec.name}"), one_torch_thread():
        with closing(Collector(env)) as collector:
            size = (num_episodes, num_adaptations)
            rollouts, _ = collector.trial(learner, tasks, *size, key)
            variables = env.spec.tasks.variables
            return probe_rollouts(learner, rollouts, tasks, variables, key.seed, num_threads)


def probe_rollouts(
    learner: HasMemory,
    rollouts: Sequence[Rollout],
    tasks: np.ndarray,
    variables: Sequence[Variable],
    seed: int,
    num_threads: int = 1,
) -> dict[str, Any]:
    """Probes the memory in the K + 1 rollouts of a trial of tasks (N, D); see `probe_memory`."""
    horizon = rollouts[0].valid.shape[2]
    targets = encode_tasks(variables, tasks)
    shown = {target.name for target in targets}
    steps = choose_steps(horizon, len(rollouts))
    tree = {
        "kind": "memory",
        "num_tasks": len(tasks),
        "trials_per_task": rollouts[0].valid.shape[1],
        "horizon": horizon,
        "num_episodes": len(rollouts),
        "steps": steps,
        "constant": [variable.name for variable in variables if variable.name not in shown],
        "numbers": [],
        "sentences": [],
    }
    if not targets:
        return tree
    folds = choose_folds(targets, stream(seed, "probe-folds"))
    resamples = draw_resamples(len(tasks), seed)
    # the same exchanges at every step, or the curve of chance would be noise
    orders = [exchange_tasks(folds, stream(seed, "probe-exchange", i)) for i in range(SHUFFLES)]
    features, inputs = read_memory(learner, rollouts, steps)

    def probe_step(i: int) -> tuple[list[Score], np.ndarray, list[Score]]:
        scores, exchanged = probe(features[i], targets, folds, resamples, orders)
        return scores, exchanged, probe(inputs[i], targets, folds, resamples)[0]

    probed = map_chunks(probe_step, range(len(steps)), num_threads)
    for i, target in enumerate(targets):
        memory, control = ([each[j][i] for each in probed] for j in (0, 2))
        shuffled = np.array([exchanged[:, i] for _, exchanged, _ in probed])
        tree["numbers"].append(_describe(target, steps, memory, control, shuffled))
    return tree | {"sentences": [_say(number, steps) for number in tree["numbers"]]}


def choose_steps(horizon: int, num_rollouts: int) -> list[int]:
    """Returns the probed steps of a trial, which counts them through all episodes.

    They include the first ten and the last step of every episode. Between them the distance of two
    steps grows in proportion to the time since the start of the episode.
    """
    own = np.unique(np.rint(np.geomspace(1, horizon, POINTS)).astype(int) - 1)
    own = np.union1d(own, np.arange(min(10, horizon)))
    return [int(k * horizon + step) for k in range(num_rollouts) for step in own]


def read_memory(
    learner: HasMemory, rollouts: Sequence[Rollout], steps: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Reads features and inputs of the memory at steps of a trial.

    An episode that ended earlier keeps its last state, so that all steps have the same trials.

    Args:
        learner: The learner.
        rollouts: The K + 1 rollouts.
        steps: P steps, counted as if every episode had the full length.

    Returns:
        Features (P, N, E, F) and inputs (P, N, E, I).
    """
    num_tasks, num_episodes, horizon = rollouts[0].valid.shape
    counts = np.stack([(r.valid.sum(dim=2) + r.truncated).numpy() for r in rollouts])
    before = np.cumsum(counts, axis=0) - counts
    episode, within = np.divmod(steps, horizon)
    last = counts[episode] - 1
    places = before[episode] + np.minimum(within[:, None, None], last)  # (P, N, E)
    chunks = []
    for start in range(0, num_tasks, _CHUNK):
        own = slice(start, min(start + _CHUNK, num_tasks))
        parts = [Rollout(**{n: a[own] for n, a in vars(r).items()}) for r in rollouts]
        index = torch.from_numpy(places[:, own].reshape(len(steps), -1, 1))
        size = (own.stop - start, num_episodes)
        traces = learner.read_memory(parts)
        chunks.append(
            [
                trace.gather(0, index.expand(-1, -1, trace.shape[-1])).unflatten(1, size).numpy()
                for trace in traces
            ]
        )
    features, inputs = zip(*chunks, strict=True)
    return np.concatenate(features, axis=1), np.concatenate(inputs, axis=1)


# --- results --------------------------------------------------------------------------------------


def _describe(
    target: Target,
    steps: Sequence[int],
    memory: Sequence[Score],
    control: Sequence[Score],
    shuffled: np.ndarray,
) -> dict[str, Any]:
    """Returns the entry of a task number; shuffled (P, SHUFFLES) are scores of exchanged tasks."""
    values = np.array([score.value for score in memory])
    by_chance = np.quantile(shuffled, 0.95, axis=1)
    best, name = int(values.argmax()), "accuracy" if target.kind == "category" else "R^2"
    state, threshold, start = "not known", None, None
    if memory[best].low > max(target.chance, by_chance.max()):
        threshold, start = _choose_threshold(values, name, target.chance)
        is_known = values[best] >= KNOWN[name]
        state = "not kept" if start is None else "known" if is_known else "partly known"
    return {
        "name": target.name,
        "unit": target.unit,
        "kind": target.kind,
        "labels": list(target.labels),
        "score": name,
        "chance": target.chance,
        "memory": _curve(memory),
        "inputs": _curve(control),
        "shuffled": {"mean": shuffled.mean(axis=1).tolist(), "q95": by_chance.tolist()},
        "state": state,
        "threshold": threshold,
        "known_after": None if start is None else steps[start],
    }


def _curve(scores: Sequence[Score]) -> dict[str, list[float]]:
    return {name: [vars(score)[name] for score in scores] for name in ("value", "low", "high")}


def _choose_threshold(
    values: np.ndarray, name: str, chance: float
) -> tuple[float | None, int | None]:
    """Returns the threshold that a score (P,) keeps to, and the first index from which it does.

    The threshold is ACCURACY for an accuracy that ends above it, else halfway between chance and
    the largest score; None if the score ends below that.
    """
    halfway = 0.5 * (chance + float(values.max()))
    for threshold in (
        (ACCURACY, halfway) if name == "accuracy" and chance < ACCURACY else (halfway,)
    ):
        start = find_start(values, threshold)
        if start is not None:
            return threshold, start
    return None, None


def find_start(values: np.ndarray, threshold: float) -> int | None:
    """Returns the first index from which all values (P,) reach a threshold, None if none does."""
    below = np.flatnonzero(values < threshold)
    start = int(below[-1]) + 1 if len(below) else 0
    return start if start < len(values) else None


def _say(entry: dict[str, Any], steps: Sequence[int]) -> str:
    """Says in one sentence from which step on the memory tells a number."""
    name, score, state = entry["name"].replace("_", " "), entry["score"], entry["state"]
    values, chance = entry["memory"]["value"], f"chance {entry['chance']:.2f}"
    best = int(np.argmax(values))
    top = f"largest {score} {values[best]:.2f} after {format_steps(steps[best])}"
    if state == "not known":
        return f"the policy does not know {name}: {top}, {chance}"
    if state == "not kept":
        return (
            f"the policy does not keep what it knows of {name}: {top}, {values[-1]:.2f} at the end"
        )
    alone = entry["inputs"]["value"][list(steps).index(entry["known_after"])]
    knows = f"knows {name}" if state == "known" else f"knows something of {name}"
    level = f"{score} at least {entry['threshold']:.2f} from there on, {top}"
    when = f"after {format_steps(entry['known_after'])}"
    return f"the policy {knows} {when}: {level}; the step's inputs alone {alone:.2f}, {chance}"
