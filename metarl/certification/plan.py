"""Plan of a certificate: all that is checked before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from metarl import __version__, builders
from metarl.certification.candidates import (
    Candidate,
    Source,
    check_source,
    open_candidate,
    read_env,
    read_observation,
    require_oracle,
    trust_source,
)
from metarl.certification.cells import Cell, make_cells
from metarl.certification.grid import Grid
from metarl.config.trust import require_trust, trust
from metarl.core.env import EnvSpec
from metarl.core.errors import ConfigError

SCHEMA = "metarl-certificate/1"
"""Version of certificate.json; it changes where a reader of the former one would fail."""

_PACKAGES = ("mujoco", "numpy", "torch", "stable-baselines3", "onnxruntime")


@dataclass(frozen=True)
class Order:
    """Settings of a certificate.

    Attributes:
        source: Place of the policy.
        env: Name of the environment; "" is that of the run.
        grid: The grid.
        seed: Of all random numbers.
        oracles: Runs of policies that observe the task; each is played in the cells of its
            environment.
        output: Folder of the certificate.
        threads: Physics threads; 0 takes all cores. Results do not depend on it.
        resume_hint: Command that goes on, for the message of an interrupt.
        trusts_env: Load the code that the run folders name.
    """

    source: Source
    env: str
    grid: Grid
    seed: int = 0
    oracles: tuple[Path, ...] = ()
    output: Path = Path("certificate")
    threads: int = 0
    resume_hint: str = ""
    trusts_env: bool = False


@dataclass
class Environments:
    """Environments by name and observation; each is built once.

    Attributes:
        threads: Physics threads.
        stack: Closes them.
        run: Folder of the run whose robot they have; None takes the files of robots as they are.
    """

    threads: int
    stack: ExitStack
    run: Path | None = None
    built: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def make(self, name: str, observation: Mapping[str, bool]) -> Any:
        """Returns an environment."""
        key = (name, *sorted(observation.items()))
        if key not in self.built:
            if self.run:
                options = {**observation, "is_quiet": bool(self.built)}  # one line is enough
                env = builders.make_env_of_run(name, self.run, self.threads, **options)
            else:
                env = builders.make_env(name, self.threads, **observation)
            self.stack.callback(env.close)
            self.built[key] = env
        return self.built[key]


@dataclass(frozen=True)
class Plan:
    """A checked order.

    Attributes:
        order: The order.
        env: Name of the environment.
        envs: The environments.
        cells: The cells.
        candidate: The policy.
        oracles: Oracles by the environment in which they are played.
        settings: All that the numbers depend on, as a tree for JSON.
    """

    order: Order
    env: str
    envs: Environments
    cells: Sequence[Cell]
    candidate: Candidate
    oracles: Mapping[str, Candidate]
    settings: Mapping[str, Any]

    def spec(self, cell: Cell) -> EnvSpec:
        """Returns the spec of a cell's environment, as the policy observes it."""
        return self.envs.make(cell.env, self.candidate.observation).spec


def make_plan(order: Order, stack: ExitStack) -> Plan:
    """Checks an order and loads its policies."""
    source, grid = order.source, order.grid
    check_source(source)
    trust(order.env)
    if order.trusts_env:
        for each in (source, *map(Source, order.oracles)):
            trust_source(each)
    env = order.env or read_env(source)
    require_trust(source.path, "env", env)
    if not env:
        raise ConfigError(f"--env is missing: name the environment of {source.path}")
    is_own = source.kind == "metarl" and not order.env
    envs = Environments(order.threads, stack, source.path if is_own else None)
    observation = read_observation(source)
    cells = make_cells(grid, env, lambda name: envs.make(name, observation).spec)
    names = {name: require_oracle(name) for name in order.oracles}
    for path, name in names.items():
        require_trust(path, "env", name)
        if name not in {cell.env for cell in cells}:
            places = ", ".join(dict.fromkeys(cell.env for cell in cells))
            raise ConfigError(f"--oracle {path}: it is of {name}; the grid has {places}")
    candidate = open_candidate(source, envs.make(env, observation).spec, order.threads)
    oracles = {}
    for path, name in names.items():
        own = envs.make(name, read_observation(Source(path))).spec
        oracles[name] = open_candidate(Source(path), own, order.threads)
    specs = {cell.env: envs.make(cell.env, observation).spec for cell in cells}
    _check_sizes(source, specs, envs.make(env, observation).spec)
    settings = {
        "schema": SCHEMA,
        "policy": dict(candidate.facts),
        "env": env,
        "env_versions": {name: spec.version for name, spec in specs.items()},
        "grid": grid.tree(),
        "seed": order.seed,
        "oracles": {name: dict(each.facts) for name, each in oracles.items()},
        "versions": _find_versions(),
    }
    return Plan(order, env, envs, cells, candidate, oracles, settings)


def _check_sizes(source: Source, specs: Mapping[str, EnvSpec], own: EnvSpec) -> None:
    for name, spec in specs.items():
        if spec.obs_size != own.obs_size:
            sizes = f"{own.obs_size} numbers in {own.name}, {spec.obs_size} in {name}"
            hint = "leave the axis out with --axes"
            raise ConfigError(f"{source.path}: its observation has {sizes}; {hint}")


def _find_versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"metarl": __version__}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions
