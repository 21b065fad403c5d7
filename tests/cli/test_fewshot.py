"""The command `fewshot`: its output, files and messages."""

import csv
import json
import sys

import pytest
from commands import is_one_line

from metarl.cli import commands

SMALL = ["--iterations", "2", "--num-tasks", "3", "--seeds", "0,1"]


def test_command_prints_one_table_and_writes_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--task", "sinusoid", "--algo", "maml,gp", "--shots", "10", *SMALL]
    assert commands.main(["fewshot", *words, "--json", "a.json", "-o", "a.csv"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("sinusoid: 10 shots, 2 iterations, 2 seeds x 3 held-out tasks\n")
    assert [line.split(":")[0] for line in err.splitlines()] == [
        f"{algo}, seed {seed}" for algo in ("maml", "gp") for seed in (0, 1)
    ]
    tree = json.loads((tmp_path / "a.json").read_text())
    assert [row["algo"] for row in tree["rows"]] == ["maml", "gp"]
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert float(rows[0]["mean"]) == tree["rows"][0]["mean"][0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "sinusoid", "--algo", "mamle"], "--algo mamle: no such learner; did you mean"),
        (["--task", "sinusoid", "--algo", "siamese"], "--algo siamese: is not for sinusoid; use"),
        (["--task", "sinusoid", "--algo", "maml,maml"], "a learner is given twice"),
        (["--task", "sinusoid", "--algo", ","], "--algo ',': name at least one of maml"),
        (["--task", "sinusoid", "--seeds", "0,0"], "0,0: a seed is given twice"),
        (["--task", "sinusoid", "--seeds", "0,x"], "x: must be a whole number >= 0"),
        (["--task", "sinusoid", "--seeds", "0,,1"], "--seeds: '0,,1': an entry is empty; separate"),
        (["--task", "sinusoid", "--seeds", ""], "--seeds: '': is empty; separate"),
        (["--task", "sinusoid", "--algo", "maml,,leo"], "--algo 'maml,,leo': name at least one"),
        (["--task", "sinusoid", "--ways", "4"], "--ways 4: for --task digits only"),
        (["--task", "sinusoid", "--json", "no/a"], "--json no/a: there is no folder no"),
        (["--task", "sinusoid", "-o", "a.json"], "-o a.json: must end in .csv"),
        (["--task", "sinusoid", "--json", "a.csv"], "--json a.csv: must end in .json"),
        (["--task", "sinusoid", "-o", "no/a"], "-o no/a: there is no folder no"),
        (["--task", "sinusoid", "--json", "."], "--json .: is a folder; name a file"),
        (["--task", "sinusoid", "-o", "."], "-o .: is a folder; name a file"),
        (["--task", "digits", "--ways", "5"], "ways = 5: must be from 2 to 4"),
        (["--algo", "maml"], "--task"),
    ],
)
def test_unusable_flags_are_refused(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert commands.main(["fewshot", *words]) == 2
    err = capsys.readouterr().err
    assert is_one_line(err) and message in err
    assert not list(tmp_path.iterdir())


def test_missing_package_names_the_command_that_installs_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert commands.main(["fewshot", "--task", "digits", *SMALL]) == 6
    err = capsys.readouterr().err
    assert is_one_line(err) and "pip install 'metarl-robots[fewshot]'" in err
