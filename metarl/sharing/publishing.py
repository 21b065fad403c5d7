"""Publishes a trained policy: a small folder from which it is evaluated and filmed, or a hub."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from metarl import experiment
from metarl.builders import portable_name, publish_robot
from metarl.config.schema import to_yaml
from metarl.core.env import supports
from metarl.core.errors import (
    CheckpointError,
    MetarlError,
    ResourceError,
    RunExists,
    require_package,
)
from metarl.core.learner import HasOptimiser
from metarl.core.machine.files import load_json, parse_json, read_file, write_atomically
from metarl.core.messages import warn
from metarl.core.trees import check_form
from metarl.evaluation import results
from metarl.policies import Given, find_folder
from metarl.reporting.model_card import model_card
from metarl.runs import checkpoint, hub, provenance, published
from metarl.runs.folder import is_old_film, newest_step
from metarl.runs.logger import read_records
from metarl.trained_policy import TrainedPolicy

MAX_FILM = 5_000_000
"""Size above which a film is not uploaded [bytes]."""


def publish(run: Given, folder: str | Path, *, trust_env: bool = False) -> Path:
    """Publishes the newest checkpoint of a run in a new folder.

    The folder has config.yaml, run.json without commands and paths, the evaluations of this
    checkpoint, metrics.jsonl with at most 200 records, and the checkpoint without the state of
    optimisers. Evaluating it gives the same numbers, bit for bit, as evaluating the run.

    Args:
        run: The run folder, a policy that was loaded from it, or its address on the hub.
        folder: The new folder; it must not exist.
        trust_env: Load the plug-ins that the run folder names, which runs their code.

    Returns:
        The folder.

    Raises:
        RunExists: `folder` exists.
        CheckpointError: The run has no evaluation of its newest checkpoint, or cannot be loaded.
        ResourceError: The disk refuses.
    """
    path, folder = find_folder(run, "run"), Path(folder)
    if os.path.exists(folder):  # False, not an error, for a name that is too long
        raise RunExists(f"{folder} exists and is never overwritten; choose another folder")
    with experiment.load(path, threads=1, trust_env=trust_env) as policy:
        _check_evaluation(policy)
        aside = folder.absolute().parent / f".{folder.name}.{os.getpid()}"
        try:
            aside.mkdir(parents=True)
            _fill(aside, policy)
            os.rename(aside, folder)
        except OSError as error:
            raise ResourceError(f"{folder}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return folder


def push(
    run: Given,
    repository: str,
    *,
    private: bool = False,
    to: str | Path | None = None,
    trust_env: bool = False,
) -> str:
    """Publishes the newest checkpoint of a run on the Hugging Face hub, with a model card.

    The upload is the folder of `publish`, a README.md with returns and training, and the film of
    the run if it is small. The token is the one that `hf auth login` has stored.

    Args:
        run: The evaluated run folder, a policy that was loaded from it, or its address on the hub.
        repository: ORG/NAME; it is created if there is none, and an older policy in it is replaced.
        private: Create it private.
        to: Write the files into this new folder and upload nothing.
        trust_env: Load the plug-ins that the run folder names, which runs their code.

    Returns:
        The web address of the commit, or the folder.

    Raises:
        ConfigError: The name cannot be used, the folder exists, or the repository holds something
            else.
        CheckpointError: The run has no evaluation of its newest checkpoint, or cannot be loaded.
        ResourceError: huggingface_hub is missing, the hub cannot be reached or refuses, or the disk
            does.
    """
    hub.check_repository(repository)
    path = find_folder(run, "run")
    if to is not None:
        folder = publish(path, to, trust_env=trust_env)
        _add_card(path, folder, repository)
        return str(folder)
    require_package("huggingface_hub", "hub", f"push {repository}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = publish(path, Path(temporary) / repository.partition("/")[2], trust_env=trust_env)
        _add_card(path, folder, repository)
        return hub.upload(folder, repository, private=private)


def _add_card(run: Path, folder: Path, repository: str) -> None:
    """Adds the model card, and the film if there is a small one, to a published policy.

    Both lack a fingerprint: the card is edited on the hub.
    """
    film = _find_film(run)
    name = f"{hub.FILM}{film.suffix}" if film else ""
    if film:
        shutil.copyfile(film, folder / name)
    write_atomically(folder / hub.CARD, model_card(folder, repository, name))


def _find_film(run: Path) -> Path | None:
    """Returns the film of a policy; None without one that is of its checkpoint and small."""
    videos = [path / "videos" for path in (run, published.output_path(run))]
    films = [path / f"adaptation{suffix}" for suffix in (".mp4", ".gif") for path in videos]
    film = next((path for path in films if path.is_file()), None)
    if film is None:
        return None
    if not published.is_published(run) and is_old_film(run, film, newest_step(run)):
        hint = f"make it again with: metarl video {shlex.quote(str(run))}"
        warn(f"{film} is older than the newest checkpoint and is left out; {hint}")
        return None
    if film.stat().st_size > MAX_FILM:
        warn(f"{film} is larger than {MAX_FILM / 1e6:g} MB and is left out")
        return None
    return film


def _check_evaluation(policy: TrainedPolicy) -> None:
    """Requires that evaluation.json is of the checkpoint that is published."""
    result = results.read(policy.path)
    measured, newest = result.get("checkpoint", {}).get("iteration"), policy.progress.iteration
    if measured != newest:
        hint = f"make it with: metarl evaluate {shlex.quote(str(policy.path))}"
        raise CheckpointError(
            f"{policy.path / results.FILE} is of iteration {measured}, not {newest}; {hint}"
        )


def _fill(folder: Path, policy: TrainedPolicy) -> None:
    run, progress, learner = policy.path, policy.progress, policy.learner
    state = learner.state_dict()
    omitted = [n for n in state if supports(learner, HasOptimiser) and learner.is_optimiser(n)]
    # a path of this machine means nothing elsewhere
    config = replace(experiment.read_config(run), init_from=None)
    config = replace(config, env=portable_name(config.env))
    write_atomically(folder / "config.yaml", to_yaml(config))
    write_atomically(
        folder / "run.json", json.dumps(_complete(_read_record(run), policy), indent=1) + "\n"
    )
    publish_robot(policy.config, run, folder)
    for path in [run / results.FILE, *sorted((run / "evaluations").glob("*.json"))]:
        _copy_evaluation(path, folder / path.relative_to(run), progress.iteration)
    records = [record for _, record in read_records(run / "metrics.jsonl")]
    records = [record for record in records if record["iteration"] <= progress.iteration]
    write_atomically(folder / "metrics.jsonl", published.to_lines(published.thin(records)))
    kept = {name: value for name, value in state.items() if name not in omitted}
    checkpoint.save(folder / "checkpoints", progress.iteration, kept, progress.state())
    earlier = published.read(run)  # a published policy may be published again
    published.write(
        folder,
        source=earlier.source if earlier else run.resolve().name,
        iteration=progress.iteration,
        env_steps=progress.env_steps,
        omitted=omitted,
    )


_RECORD = {"resumed?": [{}], "env?": {"name": str}, "init_from?": {"run": str}}
"""Form of run.json, as far as publishing reads it."""


def _read_record(run: Path) -> dict[str, Any]:
    """Returns run.json without commands and paths, which name files of the machine."""
    try:
        record = load_json(run / "run.json")
        check_form(record, _RECORD)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{run / 'run.json'} cannot be read ({error})") from error
    for start in (record, *record.get("resumed", ())):
        start.pop("command", None)
    if "env" in record:
        record["env"]["name"] = portable_name(record["env"]["name"])
    if source := record.get("init_from"):
        source["run"] = Path(source["run"]).name
    return record


def _complete(record: dict[str, Any], policy: TrainedPolicy) -> dict[str, Any]:
    """Adds what older versions did not record, as names and ranges of the actions.

    It is taken from the environment of today, if that can be built and has the recorded version.
    """
    recorded = record.get("env", {})
    if recorded.get("observed"):
        return record
    try:
        spec = policy.env.spec
    except MetarlError:
        return record
    if spec.version != recorded.get("version"):
        return record
    return record | {"env": provenance.describe_env(spec) | {"name": recorded["name"]}}


def _copy_evaluation(path: Path, target: Path, iteration: int) -> None:
    """Copies an evaluation if it is of this iteration; names of robots' files lose their folder."""
    try:
        text = read_file(path).decode("utf-8")
        result = parse_json(text)
        if result["checkpoint"]["iteration"] != iteration:
            return
        names = {name: result.get(name, result["env"]) for name in ("env", "trained_on")}
    except (OSError, ValueError, KeyError, TypeError):
        return
    short = {name: portable_name(env) for name, env in names.items()}
    if names["env"] != short["env"] and names["env"] != names["trained_on"]:
        return  # of another robot's file, which the name of the evaluation has too
    target.parent.mkdir(exist_ok=True)
    if short == names:
        write_atomically(target, text)
    else:
        results.write(target, result | short)
