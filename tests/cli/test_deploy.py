"""The commands `export` and `run`."""

import json

import pytest

from metarl.cli import commands
from metarl.cli.arguments import parse_task


@pytest.fixture
def policy_file(run_copy, tmp_path, capsys):
    path = tmp_path / "p.onnx"
    assert commands.main(["export", str(run_copy), "-o", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}\n{path.with_name('p.adaptation.onnx')}\n"
    return path


def test_run_prints_the_table_of_evaluate(policy_file, run_copy, tmp_path, capsys):
    sizes = ["--num-tasks", "3", "--num-adaptations", "2"]
    found, expected = tmp_path / "run.json", tmp_path / "evaluate.json"
    run = ["run", str(policy_file), "--env", "navigation-2d", "--json", str(found), *sizes]
    assert commands.main(run) == 0
    table = capsys.readouterr().out
    evaluate = ["evaluate", str(run_copy), "--deterministic", "--json", str(expected), *sizes]
    assert commands.main(evaluate) == 0
    lines = capsys.readouterr().out.splitlines()
    assert table.splitlines()[1:] == lines[-len(table.splitlines()) + 1 :]
    returns = [json.loads(path.read_text())["returns"]["mean"] for path in (found, expected)]
    assert returns[0] == pytest.approx(returns[1], abs=1e-3)


def test_run_films_two_tasks(policy_file, tmp_path, capsys):
    film = tmp_path / "film.gif"
    command = ["run", str(policy_file), "--num-tasks", "1", "--num-adaptations", "1"]
    assert commands.main([*command, "-o", str(film)]) == 0
    assert film.read_bytes()[:3] == b"GIF" and capsys.readouterr().out.endswith(f"{film}\n")


def test_torchscript_and_adapted_policies_are_one_file(run_copy, tmp_path, capsys):
    for flags in (["--format", "torchscript"], ["--adapt", "0.3,-0.2", "--num-adaptations", "2"]):
        path = tmp_path / "p"
        assert commands.main(["export", str(run_copy), "-o", str(path), *flags]) == 0
        assert capsys.readouterr().out == f"{path}\n" and path.stat().st_size > 1000
    assert parse_task("0.3,-0.2") == [0.3, -0.2]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("export {run} -o {tmp}/no/p.onnx", 2, "there is no folder"),
        (
            "export {run} -o {tmp}/p.onnx --num-adaptations 2",
            2,
            "for --adapt and --format minari only",
        ),
        ("export {run} -o {tmp}/p.onnx --adapt 1", 2, "is 2 finite numbers"),
        (
            "export {run} -o {tmp}/p.onnx --adapt 0.3,-0.2 --num-adaptations 0",
            2,
            "--num-adaptations = 0: must be at least 1",
        ),
        ("export {run} -o {tmp}/p.onnx --max-steps 9", 2, "--max-steps 9: the policy counts no"),
        ("export {tmp}/none -o {tmp}/p.onnx", 5, "is not a run folder"),
        ("export {run} -o {tmp} --adapt 0.3,-0.2", 2, "is a folder; name a file"),
        ("run {file} --json {tmp}", 2, "is a folder; name a file"),
        ("run {tmp}/none.onnx", 5, "No such file"),
        ("run {run}/config.yaml", 5, "is no ONNX file"),
        ("run {file} --env ant-dir", 2, "obs_size is 2; the environment ant-dir has 27"),
        ("run {file} --env ant-dri", 2, "did you mean ant-dir?"),
        ("run {file} -o {tmp}/f.avi", 2, "a file that ends in .mp4, .gif, .html"),
    ],
)
def test_mistakes_get_one_line(policy_file, run_copy, tmp_path, capsys, words, code, message):
    places = {"run": run_copy, "tmp": tmp_path, "file": policy_file}
    assert commands.main([word.format(**places) for word in words.split()]) == code
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("metarl: error: ") and message in error


def test_help_of_run_says_how_many_tasks_are_played(capsys):
    with pytest.raises(SystemExit):
        commands.main(["run", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "in the simulator, on 20 held-out tasks by default" in text
