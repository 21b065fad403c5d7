"""Settings of the collection of experience; nothing here imports torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from metarl.core.errors import require
from metarl.core.ranges import Need, require_between


@dataclass(frozen=True)
class SamplerConfig:
    """Amount of experience that one iteration collects."""

    num_tasks: int = 20
    """Tasks in a meta-batch (N), >= 1 (Finn et al. 2017 use 20 to 40)."""

    num_episodes: int = 10
    """Episodes of each task in each rollout (E), >= 1."""

    num_adaptations: int = 1
    """Adaptation steps in a trial (K), >= 0; a trial is K + 1 rollouts."""

    train_tasks: int = 0
    """Size of a fixed set of training tasks; 0 uses that of the environment's definition, or draws
    fresh tasks."""

    threads: int = 0
    """Physics threads; 0 uses all cores. Results do not depend on it."""

    slices: int = 0
    """Slices in which tasks are played; 0 is two halves. The last bits of a policy with a memory
    depend on it, and so many workers of a cluster can play it; those of MAML do not."""

    backend: Literal["local", "ray"] = "local"
    """Where tasks are played: in this process, or by workers on a cluster of Ray. Results do not
    depend on it."""

    address: str = "local"
    """Cluster of Ray: local starts one of this machine, auto takes the one that runs here or that
    RAY_ADDRESS names, or host:port of its head."""

    workers: int = 0
    """Workers on the cluster, one processor each; 0 is one for each processor."""

    physics: Literal["mujoco", "warp"] = "mujoco"
    """What computes the physics of the training: MuJoCo on the CPU, or MuJoCo Warp on a GPU, whose
    results differ. Evaluations and videos always use MuJoCo."""

    mirror: bool = False
    """Play every second training task in a mirror, left and right of the robot exchanged."""

    NEEDS = (Need(("address", "workers"), ("backend",), ("ray",)),)
    """Settings that others make meaningless."""

    def __post_init__(self) -> None:
        """Refuses values outside the ranges above, naming the field."""
        ranges = {"num_tasks": (1, 10**6), "num_episodes": (1, 10**6), "num_adaptations": (0, 1000)}
        require_between("sampler.", self, {**ranges, "train_tasks": (0, 10**6)})
        counts = {"threads": (0, 4096), "slices": (0, 10**6), "workers": (0, 10**6)}
        require_between("sampler.", self, counts)
        address = re.fullmatch(r"local|auto|[^\s:/]+:\d+", self.address)
        require(address is not None, "sampler.address", self.address, "local, auto or host:port")
