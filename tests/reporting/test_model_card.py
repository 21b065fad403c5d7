"""The model card says what evaluation.json, run.json and metrics.jsonl say."""

import json
import re
import shutil
from itertools import takewhile
from pathlib import Path

import pytest
import yaml
from commands import REPOSITORY
from run_files import write_run

from metarl.reporting.model_card import model_card
from metarl.runs.published import is_published

POLICIES = sorted(p for p in (REPOSITORY / "pretrained").iterdir() if is_published(p))


@pytest.fixture(params=POLICIES, ids=lambda path: path.name)
def policy(request):
    return request.param


def table(card, heading):
    """Returns the cells of the first table below a heading, without its first two lines."""
    lines = card.partition(f"## {heading}\n\n")[2].splitlines()
    rows = list(takewhile(lambda line: line.startswith("|"), lines))
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows[2:]]


def test_metadata_leave_the_license_to_the_owner(policy):
    card = model_card(policy, "me/mine")
    _, front, body = card.split("---\n", 2)
    tree, config = yaml.safe_load(front), yaml.safe_load((policy / "config.yaml").read_text())
    assert tree["library_name"] == "metarl" and "license" not in tree
    assert {"reinforcement-learning", config["algo"], config["env"]} <= set(tree["tags"])
    assert "# license: choose one" in front
    assert body.startswith("\n# mine\n")


def test_returns_are_those_of_the_evaluation(policy):
    result = json.loads((policy / "evaluation.json").read_text())
    rows = table(model_card(policy, "me/mine"), "Returns")
    returns, quiet = result["returns"], result["without_noise"]["returns"]
    assert len(rows) == len(returns["mean"])
    for k, row in enumerate(rows):
        assert row[0] == str(k)
        numbers = [float(n) for cell in row[2:] for n in re.findall(r"-?\d+\.\d+", cell)]
        expected = [returns["mean"][k], *returns["ci95"][k], quiet["mean"][k], *quiet["ci95"][k]]
        assert numbers == pytest.approx(expected, abs=0.0051)


def test_card_names_the_run_that_another_starts_from(tmp_path):
    run = write_run(tmp_path / "tuned", records=3)
    assert "starts from" not in model_card(run, "me/mine")
    source = {"run": "walker", "iteration": 3, "env_steps": 7000}
    (run / "run.json").write_text(json.dumps({"init_from": source}))
    facts = dict(table(model_card(run, "me/mine"), "Training"))
    assert facts["starts from"] == "walker (7,000 steps), whose training is not counted"


def test_card_says_what_was_trained(policy):
    card = model_card(policy, "me/mine")
    result = json.loads((policy / "evaluation.json").read_text())
    facts = dict(table(card, "Training"))
    assert facts["environment"] == f"`{result['env']}`, version {result['env_version']}"
    assert facts["seed"] == str(result["seed"])
    assert facts["environment steps"].replace(",", "") == str(result["checkpoint"]["env_steps"])
    seconds = json.loads((policy / "metrics.jsonl").read_text().splitlines()[-1])["seconds"]
    hours, minutes = re.fullmatch(r"(?:(\d+) h )?(\d+) min", facts["wall-clock"]).groups()
    assert 60 * int(hours or 0) + int(minutes) == round(seconds / 60)
    for name, value in result["floors"].items():
        assert f"{name} {value:.1f}" in card
    assert result["intervals"] in card


def test_three_lines_of_use_are_python(policy):
    card = model_card(policy, "me/mine")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    compile(code, "card", "exec")
    assert 'metarl.load("hf://me/mine")' in code and len(code.split("\n\n")[1].splitlines()) == 2


def test_film_is_linked_or_shown(policy):
    assert "(replay.mp4)" in model_card(policy, "me/mine", "replay.mp4")
    assert "![" in model_card(policy, "me/mine", "replay.gif")
    assert "replay" not in model_card(policy, "me/mine")


def test_card_of_an_older_run_lacks_what_was_not_recorded(tmp_path):
    folder = Path(shutil.copytree(POLICIES[0], tmp_path / "old"))
    (folder / "metrics.jsonl").write_text("")
    (folder / "run.json").unlink()
    result = json.loads((folder / "evaluation.json").read_text())
    for name in ("checkpoint", "without_noise", "experience", "intervals", "trained_on"):
        result.pop(name, None)
    result["faulted_episodes"][0] = 2
    result["oracle"] = {"run": "x", "mean": 3.0, "ci95": [2.0, 4.0]}
    (folder / "evaluation.json").write_text(json.dumps(result))
    card = model_card(folder, "me/mine")
    assert "wall-clock" not in card and "environment steps" not in card
    assert "Episodes with a failed simulation: 2." in card
    assert "A policy that observes the task reaches 3.00 [2.00, 4.00]." in card
    assert len(table(card, "Returns")[0]) == 4


def test_card_leaves_out_a_time_that_is_not_known(tmp_path):
    run = write_run(tmp_path / "run", records=1)
    record = json.loads((run / "metrics.jsonl").read_text())
    (run / "metrics.jsonl").write_text(json.dumps(record | {"seconds": None}) + "\n")
    assert "wall-clock" not in dict(table(model_card(run, "me/mine"), "Training"))
