"""Learners: one final class a file. LEARNERS is the table; a learner is imported when it is built."""

from __future__ import annotations

import importlib
from typing import Any

from metarl.learners.maml.config import MamlTrpoConfig
from metarl.learners.rl2.config import Rl2Config
from metarl.learners.sb3.config import Sb3PpoConfig, Sb3Rl2Config, Sb3TrpoConfig

LEARNER_CONFIGS: dict[str, type] = {"maml-trpo": MamlTrpoConfig, "rl2": Rl2Config}

LEARNERS: dict[str, str] = {
    "maml-trpo": "metarl.learners.maml.maml_trpo:MamlTrpo",
    "rl2": "metarl.learners.rl2.rl2:Rl2",
}


def build(
    algo: str,
    config: Any,
    obs_size: int,
    action_size: int,
    *,
    discrete: bool = False,
    **options: Any,
) -> Any:
    """Builds a learner by name.

    Args:
        algo: A name of LEARNERS.
        config: Its config.
        obs_size: S.
        action_size: A.
        discrete: Actions are one-hot rows of A alternatives.
        **options: seed, device and num_threads.

    Returns:
        The learner.
    """
    module, _, name = LEARNERS[algo].partition(":")
    learner = getattr(importlib.import_module(module), name)
    return learner(config, obs_size, action_size, discrete=discrete, **options)


BASELINE_CONFIGS: dict[str, type] = {
    "sb3-ppo": Sb3PpoConfig,
    "sb3-trpo": Sb3TrpoConfig,
    "sb3-rl2": Sb3Rl2Config,
}
