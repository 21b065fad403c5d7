"""An exported policy as a learner, which the sampler plays in a simulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from metarl.core.env import EnvSpec
from metarl.core.errors import ConfigError
from metarl.core.learner import TaskRngs
from metarl.core.messages import warn
from metarl.core.rollout import Action, Feedback, Rollout
from metarl.deployment.onnx_model import OnnxModel, States, Weights
from metarl.deployment.signals import to_controls
from metarl.functional.gaussian import log_prob_of_noise


@dataclass(frozen=True)
class OnnxContext:
    """State of an exported policy on M = N * E robots.

    Attributes:
        states: Of the memory, rows first.
        reward: Previous rewards (M,).
        done: 1 at the first step of an episode that is not the first one (M,), else 0.
        weights: Of each task.
        num_steps: Steps of this trial so far.
        num_adaptations: Gradient steps so far.
    """

    states: States
    reward: np.ndarray
    done: np.ndarray
    weights: tuple[Weights, ...]
    num_steps: int = 0
    num_adaptations: int = 0


class OnnxLearner:
    """Plays an exported policy; it does not learn.

    Args:
        policy: The policy.
        spec: Of the environment that is played.

    Raises:
        ConfigError: The sizes do not fit; names both.
    """

    def __init__(self, policy: OnnxModel, spec: EnvSpec):
        for name in ("obs_size", "action_size", "discrete"):
            own, other = vars(policy.spec)[name], vars(spec)[name]
            if own != other:
                hint = f"the environment {spec.name} has {other}"
                raise ConfigError(f"{policy.path}: {name} is {own}; {hint}")
        own, now = policy.spec.version, spec.version
        if policy.spec.name == spec.name and own != now and not policy.facts.is_foreign:
            warn(f"{policy.path} was trained on version {own} of {spec.name}, which is now {now}")
        self._policy, self._spec = policy, spec
        self._order = _find_order(policy.spec, spec)
        self.pools_episodes = policy.can_adapt

    def begin(self, num_tasks: int, num_episodes: int, rngs: TaskRngs) -> OnnxContext:
        """Returns the context before any experience."""
        del rngs
        rows = num_tasks * num_episodes
        nothing = np.zeros(rows, np.float32)
        weights: tuple[Weights, ...] = ({},) * num_tasks
        return OnnxContext(self._policy.initial_states(rows), nothing, nothing, weights)

    def act(
        self,
        context: OnnxContext,
        obs: Tensor,
        noise: Tensor,
        feedback: Feedback | None = None,
        *,
        explore: bool,
    ) -> tuple[Action, OnnxContext]:
        """Returns the modes (N, E, A), with noise where the policy adapts by gradient steps.

        Raises:
            ConfigError: The memory is full.
        """
        limit = self._policy.facts.max_steps
        if limit and context.num_steps >= limit:
            hint = "export it with more --max-steps, or play fewer adaptations"
            raise ConfigError(
                f"{self._policy.path}: the memory is full after {limit} steps; {hint}"
            )
        rows, alive = obs.flatten(0, 1).numpy(), None
        if feedback is not None:
            alive = feedback.alive.flatten().numpy()
            reward = np.where(alive, feedback.reward.flatten().numpy(), context.reward)
            context = replace(context, reward=reward, done=np.where(alive, 0.0, context.done))
        if self._policy.can_adapt:
            return self._act_by_tasks(context, obs, noise if explore else None), context
        output, states = self._policy.step(rows, context.reward, context.done, context.states)
        if alive is not None:
            states = {name: _keep(alive, new, context.states[name]) for name, new in states.items()}
        value = torch.from_numpy(self._to_env(output)).view(*obs.shape[:2], -1)
        after = replace(context, states=states, num_steps=context.num_steps + 1)
        return Action(value, torch.zeros(obs.shape[:2])), after

    def adapt(self, context: OnnxContext, rollout: Rollout, rngs: TaskRngs) -> OnnxContext:
        """Takes a gradient step, or marks the start of the next episode.

        Raises:
            FloatingPointError: A weight is not finite; names task and weight.
        """
        del rngs
        if not self._policy.can_adapt:
            last = (rollout.valid.sum(dim=2, keepdim=True) - 1).clamp(min=0)
            reward = rollout.reward.gather(2, last).squeeze(2)
            reward = torch.where(rollout.truncated, 0.0, reward).flatten().numpy()
            return replace(context, reward=reward, done=np.ones_like(reward))
        names = ("obs", "action", "reward", "valid", "truncated")
        arrays = {name: vars(rollout)[name].numpy() for name in names}
        adapted = []
        for task, weights in enumerate(context.weights):
            own = {name: value[task] for name, value in arrays.items()}
            try:
                adapted.append(self._policy.adapt(weights, context.num_adaptations, **own))
            except FloatingPointError as error:
                raise FloatingPointError(f"task {task}: {error}") from error
        count = context.num_adaptations + 1
        return replace(context, weights=tuple(adapted), num_adaptations=count)

    def update(self, context: Any, rollouts: Sequence[Rollout], tasks: np.ndarray) -> NoReturn:
        """Refuses: an exported policy does not learn.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"{self._policy.path}: an exported policy is not trained")

    def state_dict(self) -> dict[str, Tensor]:
        """Returns nothing: the state is the file."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Does nothing."""

    def _act_by_tasks(self, context: OnnxContext, obs: Tensor, noise: Tensor | None) -> Action:
        values, log_probs = [], []
        nothing = np.zeros(obs.shape[1], np.float32)
        for task, weights in enumerate(context.weights):
            acting = self._policy.acting_weights(weights)
            mean, _ = self._policy.step(obs[task].numpy(), nothing, nothing, {}, acting)
            if noise is None:
                values.append(torch.from_numpy(mean))
                log_probs.append(torch.zeros(len(mean)))
                continue
            std = torch.from_numpy(np.asarray(self._policy.noise_scale(weights)))
            values.append(torch.from_numpy(mean) + std * noise[task])
            log_probs.append(log_prob_of_noise(noise[task], std.log()))
        return Action(torch.stack(values), torch.stack(log_probs))

    def _to_env(self, output: np.ndarray) -> np.ndarray:
        """Returns outputs that the environment maps to the controls of a policy of others.

        Its joints may be in another order than the environment's actuators, if both have names.
        """
        facts, spec = self._policy.facts, self._spec
        if not facts.is_foreign or spec.discrete:
            return output
        if facts.has_scaling:
            controls = to_controls(facts.spec, output)[:, self._order]
            return ((controls - spec.action_centre) / spec.action_scale).astype(np.float32)
        return output[:, self._order]


def _find_order(own: EnvSpec, other: EnvSpec) -> np.ndarray:
    """Returns the index (A,) of each actuator of an environment among those of a policy."""
    names, wanted = ([each.name for each in spec.actuators] for spec in (own, other))
    if wanted and sorted(names) == sorted(wanted):
        return np.array([names.index(name) for name in wanted])
    return np.arange(other.action_size)


def _keep(alive: np.ndarray, new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Returns `new` where alive (M,), else `old`."""
    return np.where(alive.reshape(-1, *[1] * (new.ndim - 1)), new, old)
