"""Learning histories of a policy as a Minari data set, for offline learning in context."""

from __future__ import annotations

import copy
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from metarl import __version__, builders
from metarl.config.schema import TrainConfig
from metarl.core.env import EnvSpec
from metarl.core.errors import (
    ConfigError,
    ResourceError,
    RunExists,
    name_failures,
    require,
    require_package,
)
from metarl.core.machine.parallel import one_torch_thread
from metarl.core.ranges import MOST_ADAPTATIONS, MOST_TASKS, require_count, require_seed
from metarl.core.rng import stream
from metarl.evaluation.evaluate import held_out_tasks
from metarl.learners.modes import label
from metarl.policies import Given, open_policy
from metarl.runs.progress import heartbeat
from metarl.runs.published import name_of
from metarl.sampling.histories import list_episodes
from metarl.sampling.sampler import Collector, Key
from metarl.trained_policy import TrainedPolicy


def export_minari(
    policy: Given,
    dataset: str | Path,
    *,
    num_tasks: int = 20,
    num_adaptations: int = 3,
    distribution: Literal["train", "test"] = "train",
    seed: int | None = None,
    trust_env: bool = False,
) -> Path:
    """Plays trials and writes them as a data set of Minari, in the format HDF5.

    Episodes of a trial follow each other, in the order in which the policy learned from them. The
    infos of every observation have

        task (D,)       the task numbers
        trial           the trial: the task, or the robot for a policy that adapts while it acts
        episode         the episode in its trial
        adaptations     the adaptations before it

    An action is the output of the policy, which the environment scales and clips; of a discrete
    environment it is the index. The last step of an episode is terminated, or truncated at the
    horizon and before a failed simulation. Episodes without a valid step are left out.

    Args:
        policy: The trained policy, its run folder, or its address on the hub.
        dataset: An ID of Minari such as "ant-dir/histories-v0", in Minari's folder, or a new
            folder: a `Path`, or a text that begins with "." or "/".
        num_tasks: N.
        num_adaptations: K.
        distribution: "train" draws new tasks as in training, "test" held-out ones, whose returns
            are those of `metarl.evaluate`.
        seed: Of tasks and actions; by default that of the run.
        trust_env: Load the plug-ins that a run folder names, which runs their code.

    Returns:
        The folder of the data, for `minari.MinariDataset`.

    Raises:
        ConfigError: An argument is out of range, there is such a data set, or the policy is a set
            of policies from scratch.
        NumericalError: An action or a gradient is not finite.
        ResourceError: minari or h5py is missing, or the disk refuses.
    """
    require_count("num_tasks", num_tasks, 1, MOST_TASKS)
    require_count("num_adaptations", num_adaptations, 0, MOST_ADAPTATIONS)
    require_seed(0 if seed is None else seed)
    require(distribution in ("train", "test"), "distribution", distribution, "train or test")
    for package in ("minari", "h5py"):
        require_package(package, "minari", f"data set {dataset}")
    place = _find_place(dataset)
    with open_policy(policy, trust_env=trust_env) as loaded:
        return _export(loaded, place, num_tasks, num_adaptations, distribution, seed)


def _export(
    policy: TrainedPolicy,
    place: _Place,
    num_tasks: int,
    num_adaptations: int,
    distribution: str,
    seed: int | None,
) -> Path:
    config = policy.config
    if builders.is_baseline(config, "scratch"):
        raise ConfigError(f"{policy.path}: policies from scratch have no trials; give another run")
    tasks, key = _draw_tasks(policy, num_tasks, distribution, config.seed if seed is None else seed)
    facts = _describe(policy, distribution, key.seed)
    size, env = (config.sampler.num_episodes, num_adaptations), policy.env
    with name_failures(f"trials of {env.spec.name}"), one_torch_thread():
        with closing(Collector(env)) as collector, heartbeat(f"playing {num_tasks} tasks"):
            rollouts, _ = collector.trial(policy.learner, tasks, *size, key)
            pools = policy.learner.pools_episodes
            episodes = list_episodes(rollouts, tasks, pools, env.spec.discrete)
            return _write(place, env.spec, _find_env_spec(config), episodes, facts)


def _draw_tasks(
    policy: TrainedPolicy, num_tasks: int, distribution: str, seed: int
) -> tuple[np.ndarray, Key]:
    """Returns tasks (N, D), and the streams of their trials."""
    if distribution == "test":
        return held_out_tasks(policy.env.spec, seed, num_tasks), Key(seed, "evaluate", 0)
    tasks = builders.training_tasks(policy.env, policy.config)
    return tasks.sample(stream(seed, "minari-tasks"), num_tasks), Key(seed, "minari", 0)


# --- files ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """Place of a data set.

    Attributes:
        folder: Its folder, which does not exist yet.
        name: Its ID.
        is_listed: The folder is that of the ID among Minari's, where the data are in data/.
    """

    folder: Path
    name: str
    is_listed: bool


def _find_place(dataset: str | Path) -> _Place:
    """Returns the place of a new data set.

    Raises:
        ConfigError: The text is neither an ID nor a folder, or the parent folder does not exist.
        RunExists: There is such a data set.
    """
    text = str(dataset)
    if isinstance(dataset, Path) or text.startswith((".", "/")):
        folder = Path(dataset)
        name = re.sub(r"[^\w-]+", "-", folder.resolve().name)
        name = name if re.search(r"-v\d+$", name) else f"{name}-v0"
        place = _Place(folder, name, is_listed=False)
        require(folder.absolute().parent.is_dir(), "data set", text, "in a folder that exists")
    elif re.fullmatch(r"([\w-]+/)*[\w-]+-v\d+", text):
        from minari.storage.datasets_root_dir import get_dataset_path

        place = _Place(get_dataset_path(text), text, is_listed=True)
    else:
        hint = "an ID such as ant-dir/histories-v0, or a folder such as ./histories"
        raise ConfigError(f"data set {text}: must be {hint}")
    if place.folder.exists():
        raise RunExists(f"data set {text} exists and is never overwritten; choose another name")
    return place


def _describe(policy: TrainedPolicy, distribution: str, seed: int) -> dict[str, Any]:
    """Returns the metadata of a data set."""
    config, spec, progress = policy.config, policy.env.spec, policy.progress
    name = label(config.algo, config.learner)
    variables = [{"name": v.name, "unit": v.unit} for v in spec.tasks.variables]
    return {
        "algorithm_name": name,
        "description": f"Trials of a policy for {spec.name} that adapts, meta-trained with {name}.",
        "requirements": [f"metarl-robots=={__version__}"],
        "metarl": {
            "env": builders.portable_name(spec.name),
            "env_version": spec.version,
            "run": name_of(policy.path),
            "checkpoint": {"iteration": progress.iteration, "env_steps": progress.env_steps},
            "distribution": distribution,
            "seed": seed,
            "task_variables": variables,
        },
    }


def _find_env_spec(config: TrainConfig[Any]) -> Any:
    """Returns Gymnasium's spec of the environment, None if the name is not registered there."""
    from gymnasium.envs.registration import registry

    spec = registry.get("metarl/" + config.env.replace("/", "-"))
    if spec is None:
        return None
    spec = copy.deepcopy(spec)
    shown = {name: True for name in ("observe_task", "observe_terrain") if vars(config)[name]}
    spec.kwargs |= shown
    return spec


def _write(
    place: _Place, spec: EnvSpec, env_spec: Any, episodes: Iterator[dict[str, Any]], facts: Any
) -> Path:
    """Writes a data set beside its folder first, so that no half of one is left."""
    import minari
    from gymnasium.spaces import Box, Discrete
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    size, folder = spec.action_size, place.folder
    action_space = Discrete(size) if spec.discrete else Box(-np.inf, np.inf, (size,), np.float32)
    aside = folder.absolute().parent / f".{folder.name}.{os.getpid()}"
    data = "data" if place.is_listed else ""
    try:
        if place.is_listed:
            _create_namespace(place.name)
        (aside / data).mkdir(parents=True)
        storage = MinariStorage.new(
            aside / data,
            observation_space=Box(-np.inf, np.inf, (spec.obs_size,), np.float32),
            action_space=action_space,
            env_spec=env_spec,
            data_format="hdf5",
        )
        names = {"dataset_id": place.name, "minari_version": minari.__version__}
        storage.update_metadata(names | facts)
        storage.update_episodes(EpisodeBuffer(**fields) for fields in episodes)
        os.rename(aside, folder)
    except OSError as error:
        raise ResourceError(f"{folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder / data


def _create_namespace(name: str) -> None:
    """Creates the namespace of an ID among Minari's, if it has one that is new."""
    from minari.namespace import create_namespace, list_local_namespaces

    namespace = name.rpartition("/")[0]
    if namespace and namespace not in list_local_namespaces():
        create_namespace(namespace)
