"""Policies in ONNX files, of metarl and of others; needs onnxruntime and NumPy alone."""

from __future__ import annotations

from typing import Any

from metarl.deployment.onnx_model import OnnxModel
from metarl.deployment.onnx_session import OnnxSession


class OnnxPolicy(OnnxModel):
    """A policy in an ONNX file, as `policy = OnnxPolicy("policy.onnx")`; see `OnnxModel`."""

    def start(
        self,
        num_tasks: int = 1,
        num_robots: int = 1,
        *,
        deterministic: bool | None = None,
        seed: int = 0,
        raw: bool = False,
    ) -> OnnxSession:
        """Starts a session, as `TrainedPolicy.start` does.

        Args:
            num_tasks: N.
            num_robots: Robots of each task.
            deterministic: Send the mode of the policy; None as soon as it can.
            seed: Of the action noise.
            raw: Return the policy's outputs in place of the robot's controls.

        Raises:
            ConfigError: A number is not positive, or the policy has no noise and is asked for it.
        """
        options: dict[str, Any] = {"deterministic": deterministic, "raw": raw}
        return OnnxSession(self, num_tasks, num_robots, seed=seed, **options)
