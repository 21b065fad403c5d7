"""Writes a policy as one file, and the adaptation step of MAML beside it."""

from __future__ import annotations

from pathlib import Path

from metarl.core.errors import ConfigError, require
from metarl.core.machine.files import check_output, write_atomically
from metarl.core.rollout import Params
from metarl.deployment.export.adaptation import build_adaptation, has_adaptation_graph
from metarl.deployment.export.metadata import Origin, to_metadata
from metarl.deployment.export.onnx_graph import to_onnx
from metarl.deployment.export.policies import build_policy
from metarl.learners.maml.maml import Maml

SUFFIXES = {"onnx": (".onnx",), "torchscript": (".pt", ".pth", ".ts", ".torchscript")}
"""Suffixes of a policy's file, by its format."""

FORMATS = tuple(SUFFIXES)

NUM_EPISODES = 4
"""Least number of episodes that attention without a window keeps, as `metarl evaluate` plays."""


def export_policy(
    origin: Origin,
    path: Path,
    *,
    form: str = "onnx",
    max_steps: int = 0,
    params: Params | None = None,
    adaptations: int = 0,
) -> list[Path]:
    """Writes a policy; returns the files.

    Args:
        origin: Of the policy.
        path: The file.
        form: One of FORMATS.
        max_steps: Steps that attention without a window keeps; 0 is the length of a trial of
            training, and at least NUM_EPISODES episodes.
        params: Adapted parameters (*shape); by default those before adaptation.
        adaptations: Gradient steps that they have taken.

    Raises:
        ConfigError: The learner has no graph, the format is unknown, `max_steps` has no effect, or
            the folder is missing.
        ResourceError: The package onnx is missing, or the disk refuses.
    """
    require(form in FORMATS, "--format", form, " or ".join(FORMATS))
    require(max_steps >= 0, "--max-steps", max_steps, "at least 0")
    check_output("--output", path, SUFFIXES[form])
    spec, sampler = origin.spec, origin.config.sampler
    episodes = max(NUM_EPISODES, sampler.num_adaptations + 1)
    policy = build_policy(
        origin.learner, spec, max_steps=max_steps or episodes * spec.horizon, params=params
    )
    if max_steps and not policy.max_steps:
        hint = "only attention without a window has a limit; leave it out"
        raise ConfigError(f"--max-steps {max_steps}: the policy counts no steps, {hint}")
    learner, beside = origin.learner, None
    if isinstance(learner, Maml) and form == "onnx" and not adaptations:
        if has_adaptation_graph(learner):
            beside = path.with_name(f"{path.stem}.adaptation{path.suffix}")
    name = beside.name if beside else ""
    metadata = to_metadata(origin, policy, adaptations=adaptations, adaptation_graph=name)
    if form == "torchscript":
        from metarl.deployment.export.torch_graph import to_torchscript

        # weights with default values are an extension of ONNX
        write_atomically(path, to_torchscript(policy.graph, metadata))
        return [path]
    files = {path: to_onnx(policy.graph, metadata)}
    if beside:
        files[beside] = to_onnx(build_adaptation(learner), metadata)
    for each, content in files.items():
        write_atomically(each, content)
    return list(files)
