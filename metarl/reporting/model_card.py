"""Model card of a published policy: README.md of its repository on a hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from metarl.core.env import EnvSpec
from metarl.core.messages import format_number
from metarl.evaluation import results
from metarl.evaluation.table import describe_floors, format_interval
from metarl.runs import reader
from metarl.runs.recorded import read_spec

_LICENSE = "# license: choose one, for example apache-2.0, and remove the mark\n"


def model_card(folder: Path, repository: str, film: str = "") -> str:
    """Returns the text of a model card.

    Args:
        folder: The published policy, with its evaluation.
        repository: ORG/NAME.
        film: File of a film, relative to the card, or "".

    Raises:
        CheckpointError: A file of the policy cannot be read.
    """
    run = reader.load(folder)
    result = results.complete(results.read(folder))
    sections = [
        _front_matter(run.env, str(result["algo"])),
        f"# {repository.partition('/')[2]}\n",
        _introduction(result, film),
        "## Use\n",
        _use(repository),
        "## Returns\n",
        _returns(result),
        "## Training\n",
        _training(run, result, read_spec(folder)),
    ]
    return "\n".join(sections)


def _front_matter(env: str, algo: str) -> str:
    """Returns the metadata that a hub reads; the license is left to the owner."""
    tags = ["reinforcement-learning", "meta-reinforcement-learning", "robotics", "metarl", algo]
    tree = {"library_name": "metarl", "tags": [*tags, env]}
    return f"---\n{_LICENSE}{yaml.safe_dump(tree, sort_keys=False)}---\n"


def _introduction(result: Mapping[str, Any], film: str) -> str:
    trained_on, algo = result.get("trained_on", result["env"]), result["algo"]
    text = f"A policy for `{trained_on}`, trained with `{algo}` by metarl on many tasks.\n"
    if film.endswith(".gif"):
        text += f"\n![Held-out tasks before and after adaptation]({film})\n"
    elif film:
        text += f"\n[Film of held-out tasks before and after adaptation]({film})\n"
    return text


def _use(repository: str) -> str:
    code = (
        "import metarl\n\n"
        f'policy = metarl.load("hf://{repository}")\n'
        'print(metarl.evaluate(policy)["returns"]["mean"])\n'
    )
    return (
        f"```sh\npip install 'metarl-robots[hub]'\n```\n\n```python\n{code}```\n\n"
        "`policy.start()` begins a session on a robot, without environment and simulator. "
        f"`metarl video hf://{repository}` films the policy. "
        "The files are safetensors, JSON and YAML, and `published.json` has the SHA-256 of each.\n"
    )


def _returns(result: Mapping[str, Any]) -> str:
    """Returns the table of returns after 0..K adaptations, and what the intervals mean."""
    returns, met, quiet = result["returns"], result["experience"], result.get("without_noise")
    titles = ["adaptations", "episodes before", "return", "95 % interval"]
    rows = [
        [f"{k}", f"{met['episodes'][k]:,.0f}", format_number(mean), format_interval(ends)]
        for k, (mean, ends) in enumerate(zip(returns["mean"], returns["ci95"], strict=True))
    ]
    if quiet is not None:
        titles += ["without policy noise", "95 % interval"]
        for k, row in enumerate(rows):
            ends = format_interval(quiet["returns"]["ci95"][k])
            row += [format_number(quiet["returns"]["mean"][k]), ends]
    lines = [titles, ["---"] * len(titles), *rows]
    kind = "chosen tasks" if result.get("chosen_tasks") else "held-out tasks"
    of_training = {True: kind, False: "tasks, which are those of the training", None: "tasks"}
    remarks = [
        f"{result['num_tasks']} {of_training[result['held_out']]}, "
        f"{result['episodes_per_task']} episodes of each task.",
        f"The intervals are {result['intervals']}.",
    ]
    if result["floors"]:
        floors = describe_floors(result)
        remarks.append(f"Reference returns of policies that do not adapt: {floors}.")
    if oracle := result.get("oracle"):
        ends = format_interval(oracle["ci95"])
        remarks.append(
            f"A policy that observes the task reaches {format_number(oracle['mean'])} {ends}."
        )
    if any(result["faulted_episodes"]):
        remarks.append(f"Episodes with a failed simulation: {sum(result['faulted_episodes'])}.")
    if result["note"]:
        remarks.append(f"Note: {result['note']}.")
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return f"{table}\n\n" + "\n".join(f"* {remark}" for remark in remarks) + "\n"


def _training(run: reader.RunData, result: Mapping[str, Any], spec: EnvSpec | None) -> str:
    """Returns the table of what was trained, how long, and by which versions."""
    versions, mark = run.record.get("versions", {}), result.get("checkpoint", {})
    seconds = run.column("seconds")
    facts = {
        "environment": f"`{run.env}`, version {result.get('env_version', 1)}",
        "learner": f"`{result['algo']}`",
        "seed": f"{run.seed}",
        "iterations": f"{mark['iteration']:,}" if mark else "",
        "environment steps": f"{mark['env_steps']:,}" if mark else "",
        "starts from": run.start,
        "wall-clock": _format_seconds(seconds[-1]) if np.isfinite(seconds[-1:]).any() else "",
        "device": str(run.record.get("device", "")),
        "processor": str(run.record.get("processor", "")),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    if spec is not None:
        step = f"{spec.dt:g} s, {spec.horizon} steps an episode"
        facts |= {"control step": step, "reward": f"`{spec.reward}`" if spec.reward else ""}
        sizes = f"{spec.obs_size} numbers, {spec.action_size} numbers"
        facts |= {"observation, action": sizes}
    cells = {k: " ".join(v.split()).replace("|", r"\|") for k, v in facts.items() if v}
    rows = [f"| {name} | {value} |" for name, value in cells.items()]
    return "\n".join(["| | |", "| --- | --- |", *rows]) + "\n"


def _format_seconds(seconds: float) -> str:
    """Formats a duration as hours and minutes; a short one as seconds."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
