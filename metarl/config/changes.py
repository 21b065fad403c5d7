"""Settings that a resumed run may change, and those that would make it another run."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from metarl.config.parser import flag
from metarl.core.errors import ConfigError
from metarl.core.trees import flatten

COMMANDS = {
    *("run_dir", "resume", "trust_env", "check", "config", "seeds", "list_envs", "list_algos")
}
"""Fields that say where and how to start; config.yaml leaves them out, so a folder can be moved."""

_PLACE = {f"sampler.{name}" for name in ("threads", "backend", "address", "workers")}

FREE_ON_RESUME = {"device", "iterations", "trainer"} | _PLACE | COMMANDS
"""Fields that a resumed run may change; any other one would make it a different run."""


def refuse_changes(recorded: Any, config: Any) -> None:
    """Refuses flags that would make a resumed run a different run.

    Args:
        recorded: `TrainConfig` of the run folder.
        config: The same with the flags on top.

    Raises:
        ConfigError: There is one; names it, and the recorded value.
    """
    if config.run_dir not in (None, config.resume):
        raise ConfigError("--run-dir: a resumed run stays in its folder; leave the flag out")
    if config.seeds or config.config:
        name = "seeds" if config.seeds else "config"
        raise ConfigError(f"--{name}: a resumed run keeps its settings; leave the flag out")
    for name, (old, new) in find_changes(recorded, config).items():
        hint = "leave the flag out, or start a new run"
        raise ConfigError(f"{flag(name)} {new}: the run has {old}; {hint}")


def find_changes(recorded: Any, config: Any) -> dict[str, tuple[Any, Any]]:
    """Returns dotted name -> (recorded, new) of the settings that make a config another run's."""
    before, after = (flatten(asdict(tree)) for tree in (recorded, config))
    return {
        name: (before.get(name), after.get(name))
        for name in {**before, **after}
        if before.get(name) != after.get(name)
        and not {name, name.partition(".")[0]} & FREE_ON_RESUME
    }
