"""The computations of policies in ONNX files: steps and adaptations, without a session."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from metarl.core.env import EnvSpec
from metarl.core.errors import CheckpointError, ConfigError
from metarl.deployment.advantages import advantages
from metarl.deployment.onnx_file import OnnxFile
from metarl.deployment.policy_facts import KEY, PolicyFacts, read_facts

Weights = Mapping[str, np.ndarray]
"""Weights of one task by name; {} stands for those in the file."""

States = dict[str, np.ndarray]
"""State of every robot by name, rows first."""


class OnnxModel:
    """The computations of a policy in an ONNX file.

    Args:
        path: The file. Others than those of `metarl export` must have one observation as input
            and one action as output, and may have the metadata of mjlab's exporter.

    Attributes:
        facts: What the file says about the policy.

    Raises:
        CheckpointError: The file is missing, damaged, or no policy.
        ResourceError: The package onnxruntime is missing.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._file = OnnxFile(self.path)
        self.facts: PolicyFacts = read_facts(self._file)
        self._adaptation: OnnxFile | None = None
        rows = self._file.inputs[self.facts.obs][0]
        self._fixed_rows = rows if isinstance(rows, int) else 0
        self._wanted = [self.facts.actions]
        if not self.facts.is_foreign:
            self._wanted += ["controls", *(f"next_{name}" for name in self.facts.states)]

    @property
    def spec(self) -> EnvSpec:
        """Sizes, units and scaling; of the environment of training."""
        return self.facts.spec

    def initial_states(self, num_rows: int) -> States:
        """Returns the states before the first step."""
        return {
            name: np.zeros((num_rows, *shape), np.float32)
            for name, shape in self.facts.states.items()
        }

    def step(
        self,
        obs: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        states: States,
        weights: Weights | None = None,
    ) -> tuple[np.ndarray, States]:
        """Computes the mode of the policy.

        Args:
            obs: (M, S) float32.
            reward: Of the previous control (M,); 0 at the first step of all.
            done: (M,) 1 at the first step of an episode that is not the first one, else 0.
            states: Of every robot.
            weights: In place of those in the file.

        Returns:
            Outputs of the policy (M, A), and the next states.
        """
        if self._fixed_rows and self._fixed_rows != len(obs):
            return self._step_by_rows(obs)
        feeds = {self.facts.obs: obs, **states, **(weights or {})}
        if states:
            feeds["reward"] = np.asarray(reward, np.float32).reshape(-1, 1)
            feeds["done"] = np.asarray(done, np.float32).reshape(-1, 1)
        wanted = [name for name in self._wanted if name != "controls"]
        output, *after = self._file.run(feeds, wanted)
        return output, dict(zip(states, after, strict=True))

    def _step_by_rows(self, obs: np.ndarray) -> tuple[np.ndarray, States]:
        """Computes a policy of others that takes one robot at a time."""
        if self._fixed_rows != 1:
            raise ConfigError(f"{self.path} takes {self._fixed_rows} robots, not {len(obs)}")
        outputs = [self._file.run({self.facts.obs: row[None]}, self._wanted)[0] for row in obs]
        return np.concatenate(outputs), {}

    # --- adaptation -------------------------------------------------------------------------------

    @property
    def can_adapt(self) -> bool:
        """The policy has a graph of its gradient steps, and has not taken one before the export."""
        facts = self.facts
        is_fresh = facts.adapts == "gradient" and not facts.adaptations
        return is_fresh and bool(facts.adaptation["graph"])

    def step_size(self, k: int) -> float:
        """Returns alpha of adaptation k = 0, 1, ... [parameter units per unit gradient]."""
        settings = self.facts.adaptation
        later = settings["inner_lr"] * settings["later_lr"]
        return settings["inner_lr"] if k == 0 else later * settings["later_decay"] ** (k - 1)

    def noise_scale(self, weights: Weights) -> np.ndarray:
        """Returns the standard deviations (A,) of the action noise [policy output units]."""
        settings = self.facts.adaptation
        log_std = weights.get("log_std", np.array(settings["log_std"], np.float32))
        return np.exp(np.maximum(log_std, np.float32(settings["min_log_std"])))

    def adapt(
        self,
        weights: Weights,
        k: int,
        obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        valid: np.ndarray,
        truncated: np.ndarray | None = None,
    ) -> Weights:
        """Takes one gradient step on a task.

        Args:
            weights: Of the policy that acted.
            k: Steps before this one.
            obs: (E, T, S).
            action: (E, T, A), outputs of the policy with their noise.
            reward: (E, T).
            valid: (E, T), a prefix of every row.
            truncated: Episodes (E,) that a fault cut; by default none.

        Returns:
            The weights after the step.

        Raises:
            CheckpointError: The graph of the adaptation is missing, damaged, or another policy's.
            FloatingPointError: A weight is not finite; names it.
        """
        graph, settings = self._open_adaptation(), self.facts.adaptation
        cut = np.zeros(len(obs), dtype=bool) if truncated is None else truncated
        discounts = settings["discount"], settings["gae_lambda"]
        advantage = advantages(obs, reward, valid, cut, *discounts)
        feeds = {
            "obs": obs[valid].astype(np.float32),
            "action": action[valid].astype(np.float32),
            "advantage": advantage[valid][:, None],
            "step_size": np.array([self.step_size(k)], np.float32),
            **weights,
        }
        names = list(graph.outputs)
        after = {
            name.removeprefix("next_"): value
            for name, value in zip(names, graph.run(feeds, names), strict=True)
        }
        for name, value in after.items():
            if not np.isfinite(value).all():
                raise FloatingPointError(f"{name} is not finite after adaptation {k}")
        return after

    def acting_weights(self, weights: Weights) -> Weights:
        """Returns the weights that `step` takes."""
        return {name: weights[name] for name in self._file.defaults if name in weights}

    def _open_adaptation(self) -> OnnxFile:
        if self._adaptation is None:
            path = self.path.with_name(self.facts.adaptation["graph"])
            if not path.exists():
                raise CheckpointError(f"{self.path} cannot adapt: {path.name} is not beside it")
            graph = OnnxFile(path)
            if graph.metadata.get(KEY) != self._file.metadata[KEY]:
                hint = "the two files of one metarl export belong together; export it again"
                raise CheckpointError(f"{path} adapts another policy than {self.path}: {hint}")
            self._adaptation = graph
        return self._adaptation
