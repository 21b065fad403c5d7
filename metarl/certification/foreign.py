"""Policies of Stable-Baselines3 (SB3) with the verbs of a learner.

They do not adapt: the context is the state of a memory, which SB3 clears as an episode starts.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from metarl.core.env import EnvSpec
from metarl.core.errors import CheckpointError, ConfigError, nearest
from metarl.core.learner import TaskRngs
from metarl.core.messages import warn
from metarl.core.rollout import Action, Feedback, Rollout

SB3_CLASSES = ("A2C", "DDPG", "DQN", "PPO", "SAC", "TD3")
CONTRIB_CLASSES = ("ARS", "CrossQ", "QRDQN", "RecurrentPPO", "TQC", "TRPO")
"""Classes of stable_baselines3 and sb3_contrib that can be named."""


class Controller(Protocol):
    """A policy of another library."""

    def act(self, obs: np.ndarray, state: Any, is_start: bool) -> tuple[np.ndarray, Any]:
        """Maps obs (M, S) and a state to outputs (M, A) [policy output] and the next state.

        Args:
            obs: float32.
            state: As the previous call returned it; None before the first.
            is_start: The observations are the first of their episodes.
        """


class ForeignLearner:
    """A controller as a learner that is trained, and does not adapt.

    Args:
        controller: The policy.
    """

    pools_episodes = False

    def __init__(self, controller: Controller):
        self._controller = controller

    def begin(self, num_tasks: int, num_episodes: int, rngs: TaskRngs) -> None:
        """Returns the state before the first step."""
        return None

    def act(
        self,
        context: Any,
        obs: Tensor,
        noise: Tensor,
        feedback: Feedback | None = None,
        *,
        explore: bool,
    ) -> tuple[Action, Any]:
        """Returns the modes (N, E, A) for obs (N, E, S), also where exploration is asked for."""
        rows = obs.flatten(0, 1).contiguous().numpy()
        output, context = self._controller.act(rows, context, feedback is None)
        value = torch.from_numpy(np.ascontiguousarray(output, dtype=np.float32))
        return Action(value.view(*obs.shape[:2], -1), torch.zeros(obs.shape[:2])), context

    def adapt(self, context: Any, rollout: Rollout, rngs: TaskRngs) -> Any:
        """Returns the context unchanged."""
        return context


def check_sizes(path: Path, spec: EnvSpec, obs_size: int | None, action_size: int | None) -> None:
    """Compares the sizes of a policy with those of an environment; None fits any.

    Raises:
        ConfigError: A size is another; names both.
    """
    pairs = (("observations", obs_size, spec.obs_size), ("actions", action_size, spec.action_size))
    for what, own, needed in pairs:
        if own is not None and own != needed:
            raise ConfigError(f"{path}: it has {own} {what}, {spec.name} has {needed}")


# --- Stable-Baselines3 ----------------------------------------------------------------------------


def load_sb3(path: Path, class_name: str, spec: EnvSpec, normalizer: Path | None = None) -> Any:
    """Loads a model that SB3 saved. SB3 executes code in the file: call it for trusted files only.

    Args:
        path: The zip.
        class_name: The class that saved it, checked.
        spec: Of the environment.
        normalizer: File of the `VecNormalize` that it was trained with.

    Returns:
        A controller.

    Raises:
        ConfigError: The model is of an environment of other sizes.
        CheckpointError: A file is damaged, or of another class.
    """
    cls = _find_class(class_name)
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path} is damaged: it is no zip file")
    try:
        model = cls.load(path, device="cpu")
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise CheckpointError(f"{path} cannot be loaded as {class_name} ({reason:.200})") from error
    space = model.action_space
    kind = Discrete if spec.discrete else Box
    if not isinstance(space, kind):
        raise ConfigError(f"{path}: its actions are {space}, {spec.name} needs a {kind.__name__}")
    num_actions = int(space.n) if isinstance(space, Discrete) else int(np.prod(space.shape))
    check_sizes(path, spec, int(np.prod(model.observation_space.shape)), num_actions)
    return Sb3Controller(model, spec, _load_normalizer(normalizer))


def check_class(name: str) -> None:
    """Refuses a class of SB3 that is not known.

    Raises:
        ConfigError: Names the nearest.
    """
    known = (*SB3_CLASSES, *CONTRIB_CLASSES)
    if name not in known:
        hint = f"must be one of {', '.join(known)}{nearest(name, known)}"
        raise ConfigError(f"--sb3 {name}: {hint}")


def _find_class(name: str) -> Any:
    import sb3_contrib
    import stable_baselines3

    return vars(stable_baselines3 if name in SB3_CLASSES else sb3_contrib)[name]


def _load_normalizer(path: Path | None) -> Any:
    if path is None:
        return None
    from stable_baselines3.common.save_util import load_from_pkl
    from stable_baselines3.common.vec_env import VecNormalize

    try:
        loaded = load_from_pkl(path)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise CheckpointError(f"{path} cannot be loaded ({reason:.200})") from error
    if not isinstance(loaded, VecNormalize):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, not a VecNormalize")
    return loaded


class Sb3Controller:
    """A model of SB3.

    The ends of its action space send the smallest and largest action of the environment.

    Args:
        model: A model with `predict`.
        spec: Of the environment.
        normalizer: The `VecNormalize` of its training, or None.
    """

    def __init__(self, model: Any, spec: EnvSpec, normalizer: Any = None):
        self._model, self._spec, self._normalizer = model, spec, normalizer
        if not spec.discrete:
            self._own = _ends(model.action_space.low, model.action_space.high)
            low, high = spec.action_range or (-1.0, 1.0)
            to_output = [
                (np.array(e) - spec.action_centre) / spec.action_scale for e in (low, high)
            ]
            self._target = _ends(*to_output)

    def act(self, obs: np.ndarray, state: Any, is_start: bool) -> tuple[np.ndarray, Any]:
        """See `Controller`."""
        if self._normalizer is not None:
            obs = self._normalizer.normalize_obs(obs)
        starts = np.full(len(obs), is_start)
        action, state = self._model.predict(obs, state, starts, deterministic=True)
        if self._spec.discrete:
            return np.eye(self._spec.action_size, dtype=np.float32)[action.reshape(-1)], state
        (middle, half), (to_middle, to_half) = self._own, self._target
        if np.allclose(middle, to_middle) and np.allclose(half, to_half):
            return action, state
        return to_middle + to_half * (action - middle) / half, state


def _ends(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns middle and half length of ranges; 0 and 1 for one without an end."""
    low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
    is_bounded = np.isfinite(low) & np.isfinite(high) & (high > low)
    low, high = np.where(is_bounded, low, -1.0), np.where(is_bounded, high, 1.0)
    return 0.5 * (low + high), 0.5 * (high - low)


def warn_of_code(paths: Sequence[Path]) -> None:
    """Warns that loading files of SB3 executes what they contain."""
    names = " and ".join(map(str, paths))
    warn(f"loading {names} runs code that is in it")
