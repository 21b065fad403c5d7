"""Predictions in the form of Stable-Baselines3: the state goes in and comes out."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.core.env import EnvSpec, supports
from metarl.core.errors import ConfigError
from metarl.core.learner import AdaptsWhileActing, JoinableContext, Learner, adapts_while_acting
from metarl.core.machine.parallel import one_torch_thread
from metarl.core.rollout import Feedback, Rollout
from metarl.deployment.signals import (
    Observation,
    count_rows,
    read_observation,
    read_rows,
    to_controls,
)
from metarl.sampling.sampler import Key


@dataclass(frozen=True)
class PolicyState:
    """Knowledge of a policy about M robots, each with a task of its own.

    Attributes:
        context: The learner's context of M tasks with one episode.
        obs: Previous observations (M, 1, S).
        action: Previous outputs of the policy (M, 1, A).
        num_steps: Predictions so far.
    """

    context: Any
    obs: Tensor
    action: Tensor
    num_steps: int


def predict(
    learner: Learner[Any],
    spec: EnvSpec,
    obs: Observation,
    state: PolicyState | None = None,
    episode_start: Any = None,
    *,
    reward: Any = None,
    deterministic: bool = True,
    raw: bool = False,
) -> tuple[np.ndarray, PolicyState]:
    """Returns the controls of M robots, and the state for the next call.

    Args:
        learner: The learner; it is not changed.
        spec: Of the environment of training.
        obs: See Observation.
        state: As the previous call returned it; None forgets everything.
        episode_start: Robots (M,) whose episode begins with obs. Other than in Stable-Baselines3, a
            memory keeps what it knows of the task: leave the state out where the task is another.
        reward: Of the previous controls (M,), an input of policies with a memory.
        deterministic: Send the mode of the policy.
        raw: Return the policy's outputs in place of the robot's controls.

    Raises:
        ConfigError: An argument does not fit, or the reward is missing.
    """
    num_rows, has_rows = count_rows(obs)
    rows = torch.from_numpy(read_observation(spec, obs, num_rows)).unsqueeze(1)
    if not rows.isfinite().all():
        raise ConfigError("obs: must be finite; a session answers such numbers with a safe control")
    if state is None:
        streams = Key(0, "predict", 0).tasks("begin", 0, num_rows)
        context, number = learner.begin(num_rows, 1, streams), 0
        groups = [(np.arange(num_rows), context, None)]
    else:
        # attention writes its cache in place, and a state may be continued twice
        state, number = copy.deepcopy(state), state.num_steps
        groups = _continue(learner, state, episode_start, reward, num_rows)
    noise = [
        rng.standard_normal(spec.action_size, np.float32) for rng in _streams(number, num_rows)
    ]
    drawn = torch.from_numpy(np.stack(noise)).unsqueeze(1)
    output, contexts = torch.empty_like(drawn), []
    with one_torch_thread(), torch.inference_mode():
        for index, context, feedback in groups:
            inputs = rows[index], drawn[index], feedback
            chosen, after = learner.act(context, *inputs, explore=not deterministic)
            output[index] = chosen.value
            contexts.append(after)
    context = contexts[0] if len(groups) == 1 else _merge([g[0] for g in groups], contexts)
    values = output.squeeze(1).numpy()
    controls = values.copy() if raw else to_controls(spec, values)
    after = PolicyState(context, rows, output, number + 1)
    return controls if has_rows else controls[0], after


def _streams(number: int, num_rows: int) -> list[np.random.Generator]:
    return Key(0, "predict", number).episodes(0, num_rows, 1)


_Group = tuple[np.ndarray, Any, Feedback | None]
"""Rows, their context, and the feedback of a step in mid-episode."""


def _continue(
    learner: Learner[Any], state: PolicyState, episode_start: Any, reward: Any, num_rows: int
) -> list[_Group]:
    """Returns the rows in mid-episode and those at a start, each with its context.

    Raises:
        ConfigError: The number of rows is another, the reward is missing, or the learner's contexts
            cannot be cut although only some of the episodes start.
    """
    every = np.arange(num_rows)
    if len(state.action) != num_rows:
        raise ConfigError(f"state has {len(state.action)} robots and obs {num_rows}")
    if state.context is None or not adapts_while_acting(learner):  # nothing is kept between steps
        return [(every, state.context, None)]
    if reward is None:
        hint = "the policy reads it; pass reward="
        raise ConfigError(f"reward is missing: {hint}, or use policy.start()")
    rewards = torch.tensor(read_rows("reward", reward, num_rows, np.float32)).unsqueeze(1)
    given = False if episode_start is None else episode_start
    starts = read_rows("episode_start", given, num_rows, bool)
    alive = torch.ones(num_rows, 1, dtype=torch.bool)
    if not starts.any():
        return [(every, state.context, Feedback(rewards, alive))]
    ended = _end_episode(learner, state, rewards)
    if starts.all():
        return [(every, ended, None)]
    if not supports(state.context, JoinableContext):
        hint = "start the episodes of all robots together, or use a session for each"
        raise ConfigError(f"episode_start: this policy's memory cannot be cut by robots; {hint}")
    on, begun = np.flatnonzero(~starts), np.flatnonzero(starts)
    going_on = Feedback(rewards[on], alive[on])
    return [(on, _take(state.context, on), going_on), (begun, _take(ended, begun), None)]


def _end_episode(learner: Learner[Any], state: PolicyState, reward: Tensor) -> Any:
    """Returns the context after episodes whose last step is that of the state.

    Learners that pool episodes keep what they knew before: they adapt in sessions.
    """
    if supports(learner, AdaptsWhileActing):
        return learner.select_episodes(state.context, 0, 1)
    no, yes = torch.zeros_like(reward), torch.ones_like(reward, dtype=torch.bool)
    rollout = Rollout(
        obs=state.obs.unsqueeze(2),
        action=state.action.unsqueeze(2),
        log_prob=no.unsqueeze(2),
        reward=reward.unsqueeze(2),
        valid=yes.unsqueeze(2),
        terminated=~yes,
        truncated=~yes,
        last_obs=state.obs,
    )
    streams = Key(0, "predict", state.num_steps).tasks("adapt", 1, len(reward))
    return learner.adapt(state.context, rollout, streams)


def _take(context: Any, index: np.ndarray) -> Any:
    """Returns the context of some tasks, in their order."""
    return type(context).join([context.slice_tasks(i, i + 1) for i in index.tolist()])


def _merge(indices: list[np.ndarray], contexts: list[Any]) -> Any:
    """Returns the context of all tasks from those of two sets of tasks."""
    return _take(type(contexts[0]).join(contexts), np.concatenate(indices).argsort())
