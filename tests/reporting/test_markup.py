"""Pages run nothing, load nothing, and show texts of others as they are."""

import html
import json
import os
import re

import pytest
from run_files import write_run

from metarl.reporting.report import write_report


def report(tmp_path, *runs):
    """The text of the report of runs."""
    write_report(runs, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text()


POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def test_report_forbids_scripts_and_loading(tmp_path):
    text = report(tmp_path, write_run(tmp_path / "run"))
    assert f'content="{POLICY}"' in text and "<script" not in text


@pytest.mark.parametrize(
    "name", ["cost $x$ and $y$", "$\\frac{$", "a_b^c$", "@DATA@", os.fsdecode(b"bytes \xff")]
)
def test_names_are_text_and_nothing_else(name, tmp_path):
    runs = [write_run(tmp_path / name, env="$env$", seed=i, max_kl=i + 1.0) for i in range(1)]
    runs.append(write_run(tmp_path / "other", env="$env$", seed=0, max_kl=5.0))
    text = html.unescape(report(tmp_path, *runs))
    shown = name.encode("utf-8", "backslashreplace").decode().replace("\\udcff", "\\xff")
    assert shown in text and "$env$" in text


def test_control_characters_of_a_run_do_not_reach_the_page(tmp_path):
    run = write_run(tmp_path / "run\x1b[31m", env="e\x07nv")
    path = run / "evaluation.json"
    changed = json.loads(path.read_text()) | {"note": "a\x1b]0;b", "env": "e\x07nv"}
    path.write_text(json.dumps(changed))
    text = report(tmp_path, run)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
    assert "e\\x07nv" in text and "\\x1b]0;b" in text


def test_wide_experience_is_labelled_with_numbers(tmp_path):
    run = write_run(tmp_path / "run")
    path = run / "evaluation.json"
    changed = json.loads(path.read_text()) | {"env_steps_per_rollout": [400.0, 90000.0, 200.0]}
    path.write_text(json.dumps(changed))
    assert "mathdefault" not in report(tmp_path, run)
