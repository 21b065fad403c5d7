"""Policies of other libraries with the verbs of a learner: Stable-Baselines3 (SB3) and ONNX files.

They do not adapt: the context of an SB3 policy is the state of its memory, which it clears at the
start of an episode, and an ONNX file with one input and one output has none.
"""

from __future__ import annotations

import sys
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


# --- ONNX -----------------------------------------------------------------------------------------


def load_onnx(path: Path, spec: EnvSpec) -> OnnxController:
    """Loads an ONNX file with one input, observations (M, S), and one output, actions (M, A).

    Raises:
        CheckpointError: The file is damaged, or has other inputs or outputs.
        ConfigError: onnxruntime is not installed, or the policy is of other sizes.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError(f"{path}: needs onnxruntime; pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} is no ONNX file that can be used ({reason:.160})") from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    is_plain = len(inputs) == 1 and len(outputs) == 1 and len(inputs[0].shape) == 2
    if not is_plain or inputs[0].type not in _FLOATS:
        names = ", ".join(f"{each.name} {each.shape}" for each in (*inputs, *outputs))
        hint = "must have one input, observations (M, S), and one output, actions (M, A)"
        raise CheckpointError(f"{path}: {hint}, not {names:.200}")
    sizes = [s if isinstance(s, int) else None for s in (inputs[0].shape[-1], outputs[0].shape[-1])]
    check_sizes(path, spec, *sizes)
    return OnnxController(session, spec, path)


_FLOATS = {"tensor(float)": np.float32, "tensor(double)": np.float64}


class OnnxController:
    """An ONNX file of a policy without memory.

    Its outputs are those of a policy of the environment, which go through the environment's action
    scale. If the file's metadata have the action scale and the default joint positions, as those of
    mjlab, its outputs mean joint positions; with joint names they may be in another order.

    Args:
        session: Of onnxruntime.
        spec: Of the environment.
        path: For messages.
    """

    def __init__(self, session: Any, spec: EnvSpec, path: Path):
        self._session, self._input = session, session.get_inputs()[0]
        self._has_one_row = self._input.shape[0] == 1
        self._size, self._path = spec.action_size, path
        metadata = dict(session.get_modelmeta().custom_metadata_map)
        self._order, self._scale, self._shift = _read_metadata(metadata, spec, path)

    def act(self, obs: np.ndarray, state: Any, is_start: bool) -> tuple[np.ndarray, Any]:
        """See `Controller`."""
        obs = obs.astype(_FLOATS[self._input.type], copy=False)
        batches = obs[:, None] if self._has_one_row else [obs]
        found = [self._session.run(None, {self._input.name: rows})[0] for rows in batches]
        output = np.concatenate(found)
        if output.shape != (len(obs), self._size):
            needed = (len(obs), self._size)
            raise ConfigError(f"{self._path}: it answers {output.shape}: must be {needed}")
        return (output * self._scale + self._shift)[:, self._order], state


def _read_metadata(
    metadata: dict[str, str], spec: EnvSpec, path: Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns order, factor and shift (A,) from the file's outputs to policy outputs.

    The factor and the shift come first: control = default + scale * output in the file's order.
    """
    size = spec.action_size
    order, scale, shift = np.arange(size), np.ones(size), np.zeros(size)
    own = [each.name for each in spec.actuators]
    names = [name.strip() for name in metadata.get("joint_names", "").split(",")]
    if own and sorted(names) == sorted(own):
        order = np.array([names.index(name) for name in own])
    scales, home = (_read_numbers(metadata, k, path) for k in ("action_scale", DEFAULT_POSITION))
    if scales is not None and home is not None and not spec.discrete:
        if len(home) != size or len(scales) not in (1, size):
            sizes = f"{len(scales)} scales and {len(home)} joint positions"
            raise ConfigError(f"{path}: its metadata have {sizes}, {spec.name} has {size} actions")
        centre, unit = (np.empty(size) for _ in range(2))
        centre[order], unit[order] = spec.action_centre, spec.action_scale
        scale, shift = np.broadcast_to(scales, size) / unit, (home - centre) / unit
    return order, scale, shift


DEFAULT_POSITION = "default_joint_pos"


def _read_numbers(metadata: dict[str, str], name: str, path: Path) -> np.ndarray | None:
    text = metadata.get(name)
    if not text:
        return None
    try:
        return np.array([float(each) for each in text.strip("[] ").split(",")])
    except ValueError:
        raise CheckpointError(f"{path}: metadata {name} = {text!r:.80}: must be numbers") from None


def warn_of_code(paths: Sequence[Path]) -> None:
    """Warns that loading files of SB3 executes what they contain."""
    names = " and ".join(map(str, paths))
    print(f"metarl: warning: loading {names} runs code that is in it", file=sys.stderr)
