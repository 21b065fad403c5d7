"""The command `certify` in processes: killed and resumed, and its output."""

import json
import signal
import time

import numpy as np
import pytest
from certificates import HOPPER_GRID, read_certificate, save_linear_onnx, without_times, write_grid
from commands import METARL, REPOSITORY, finish, is_one_line, start

from metarl.cli import commands


@pytest.fixture
def policy(tmp_path):
    weights = np.random.default_rng(0).normal(size=(11, 3))
    return save_linear_onnx(tmp_path / "linear.onnx", weights)


def arguments(folder, output, *more):
    grid = write_grid(folder, HOPPER_GRID)
    words = ["linear.onnx", "--env", "hopper-vel", "--grid", grid.name, "--threads", "1"]
    return ["certify", *words, "-o", output, *more]


def wait_for_cells(process, folder, count):
    deadline = time.monotonic() + 300.0
    while len(list(folder.glob("cells/*.json"))) < count:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)


def test_killed_certificate_goes_on_and_is_the_same(policy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    process = start(*METARL, *arguments(tmp_path, "cut"), cwd=tmp_path, PYTHONPATH=str(REPOSITORY))
    wait_for_cells(process, tmp_path / "cut", 1)
    process.send_signal(signal.SIGKILL)
    assert finish(process).code == -signal.SIGKILL
    assert commands.main(arguments(tmp_path, "cut")) == 0
    out = capsys.readouterr().out
    assert "of 4 cells are finished already" in out or "[4/4]" not in out
    assert "certificate: cut/certificate.html, certificate.json and badge.svg" in out
    assert commands.main(arguments(tmp_path, "whole")) == 0
    cut, whole = read_certificate(tmp_path / "cut"), read_certificate(tmp_path / "whole")
    assert json.dumps(without_times(cut)) == json.dumps(without_times(whole))


def test_table_has_a_line_for_each_cell(policy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert commands.main(arguments(tmp_path, "out", "--axes", "delay", "--attempts", "1")) == 0
    lines = capsys.readouterr().out.splitlines()
    certificate = read_certificate(tmp_path / "out")
    assert [cell["name"] for cell in certificate["cells"]] == ["nominal", "delay: 3 step"]
    assert lines[0].startswith("[1/2] nominal: survives ") and lines[0].endswith(" left")
    header = lines.index(next(line for line in lines if line.startswith("cell ")))
    for line, cell in zip(lines[header + 1 :], certificate["cells"], strict=False):
        share, mean = cell["survival"]["mean"][0], cell["returns"]["mean"][0]
        assert line.startswith(cell["name"]) and line.endswith("?")
        assert f" {100 * share:.0f} % " in line and f" {mean:.2f} " in line


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--axes", "dely"], "--axes dely: no such axis; did you mean delay?"),
        (["--num-tasks", "0"], "0: must be a whole number >= 1"),
        (["--env", "hoper-vel"], "no environment 'hoper-vel'; did you mean hopper-vel?"),
        (["--sb3", "PPO"], "--sb3 PPO: linear.onnx is no zip of Stable-Baselines3"),
        (["--trust-pickle"], "--trust-pickle: linear.onnx is no zip of Stable-Baselines3"),
        (["-o", "no/folder"], "-o no/folder: there is no folder no"),
    ],
)
def test_unusable_flags_are_refused(policy, tmp_path, monkeypatch, capsys, more, message):
    monkeypatch.chdir(tmp_path)
    assert commands.main(arguments(tmp_path, "out", *more)) == 2
    err = capsys.readouterr().err
    assert is_one_line(err) and message in err
    assert not (tmp_path / "out").exists()
