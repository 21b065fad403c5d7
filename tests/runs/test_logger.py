import json
from pathlib import Path

import numpy as np
import pytest
import torch
from run_files import make_record, open_log, read_metrics

from metarl.core.errors import CheckpointError, ResourceError
from metarl.runs import logger as log_module
from metarl.runs.logger import TIME_FIELDS, without_time

# --- metrics.jsonl -------------------------------------------------------------------------------


def test_record_is_written_at_once_with_exact_numbers(tmp_path):
    exact = make_record(1, exact=0.1 + 0.2, count=2**60, accepted=True)
    with open_log(tmp_path) as log:
        log.write(exact)
        written = read_metrics(tmp_path)
    assert written == [exact]
    assert type(written[0]["env_steps"]) is int and written[0]["accepted"] is True


def test_groups_become_keys_and_scalars_python_numbers(tmp_path):
    update = {"loss": torch.tensor(1.5), "steps": np.int64(3), "inner": {"lr": np.float64(0.1)}}
    with open_log(tmp_path) as log:
        log.write(make_record(1, update=update, **{"time/physics": 0.5}))
    written = read_metrics(tmp_path)[0]
    assert written["update/loss"] == 1.5 and written["update/inner/lr"] == 0.1
    assert type(written["update/steps"]) is int and written["time/physics"] == 0.5


def test_numbers_that_are_not_finite_are_null_and_listed(tmp_path):
    with open_log(tmp_path) as log:
        log.write(make_record(1, kl=float("nan"), update={"loss": torch.tensor(float("-inf"))}))
        log.write(make_record(2, kl=np.float64("inf")))
        log.write(make_record(3))
    text = (tmp_path / "metrics.jsonl").read_text()
    first, second, third = (
        json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()
    )
    assert first["kl"] is None and first["update/loss"] is None
    assert first["non_finite"] == ["kl", "update/loss"] and second["non_finite"] == ["kl"]
    assert "non_finite" not in third


def test_log_of_another_run_is_not_overwritten(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("mine\n")
    with pytest.raises(FileExistsError):
        open_log(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == "mine\n"


# --- resume --------------------------------------------------------------------------------------


@pytest.mark.parametrize("half_line", ["", '{"iteration": 5, "env_st', "\x00\x00"])
def test_resumed_run_has_the_records_of_an_uninterrupted_one(tmp_path, half_line):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    whole.mkdir()
    with open_log(whole) as log:
        for iteration in range(1, 6):
            log.write(make_record(iteration))
    with open_log(killed) as log:
        for iteration in range(1, 5):
            log.write(make_record(iteration, seconds=7.0, steps_per_second=1.0))
    with open(killed / "metrics.jsonl", "a") as file:
        file.write(half_line)
    with open_log(killed, resume=True, start_iteration=2) as log:
        for iteration in range(3, 6):
            log.write(make_record(iteration))
    resumed, expected = read_metrics(killed), read_metrics(whole)
    assert [record["seconds"] for record in resumed[:2]] == [7.0, 7.0]
    assert [without_time(r) for r in resumed] == [without_time(r) for r in expected]


def test_resume_keeps_the_bytes_of_earlier_records(tmp_path):
    text = '{"iteration": 1,   "x": 1.50}\n{"iteration": 2}\n'
    (tmp_path / "metrics.jsonl").write_text(text)
    open_log(tmp_path, resume=True, start_iteration=1).close()
    assert (tmp_path / "metrics.jsonl").read_text() == text.splitlines(keepends=True)[0]


def test_resume_converts_a_file_that_counts_from_0(tmp_path):
    old = [{**make_record(i + 1, x=0.1 + 0.2), "iteration": i, "kl": None} for i in range(4)]
    text = "".join(json.dumps(record) + "\n" for record in old)
    (tmp_path / "metrics.jsonl").write_text(text + '{"iteration": 4, "ret')
    with open_log(tmp_path, resume=True, start_iteration=3) as log:
        log.write(make_record(4))
    expected = [{**record, "iteration": i + 1} for i, record in enumerate(old[:3])]
    assert read_metrics(tmp_path) == [*expected, make_record(4)]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_converted_file_is_not_converted_again(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 0}\n{"iteration": 1}\n')
    for _ in range(2):
        open_log(tmp_path, resume=True, start_iteration=2).close()
        assert read_metrics(tmp_path) == [{"iteration": 1}, {"iteration": 2}]


def test_failed_conversion_leaves_the_old_file(tmp_path, monkeypatch):
    text = '{"iteration": 0}\n{"iteration": 1}\n'
    (tmp_path / "metrics.jsonl").write_text(text)

    def refuse(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log_module.os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        open_log(tmp_path, resume=True, start_iteration=2)
    assert (tmp_path / "metrics.jsonl").read_text() == text


def test_resume_from_the_start_has_no_records(tmp_path):
    with open_log(tmp_path, resume=True) as log:
        log.write(make_record(1))
    assert len(read_metrics(tmp_path)) == 1


def test_resume_names_a_damaged_line_and_leaves_the_file(tmp_path):
    text = '{"iteration": 1}\n{"iterat\n{"iteration": 3}\n'
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(CheckpointError, match="metrics.jsonl, line 2: no record"):
        open_log(tmp_path, resume=True, start_iteration=3)
    assert (tmp_path / "metrics.jsonl").read_text() == text


NO_TEXT = bytes(range(200, 250))


@pytest.mark.parametrize("raw", [NO_TEXT, NO_TEXT + b"\n", b'{"iteration": 1}\n' + NO_TEXT])
def test_bytes_that_are_no_text_are_not_a_half_line(tmp_path, raw):
    (tmp_path / "metrics.jsonl").write_bytes(raw)
    number = 1 + raw.startswith(b"{")
    with pytest.raises(CheckpointError, match=f"metrics.jsonl, line {number}: no record"):
        open_log(tmp_path, resume=True, start_iteration=3)
    assert (tmp_path / "metrics.jsonl").read_bytes() == raw


@pytest.mark.parametrize(("text", "count"), [("", 0), ('{"iteration": 1}\n', 1)])
def test_resume_warns_of_lost_records_in_one_line(tmp_path, capsys, text, count):
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    open_log(tmp_path, resume=True, start_iteration=3).close()
    warning = f"metarl: warning: {path} has {count} of the 3 records before the checkpoint\n"
    assert capsys.readouterr().err == warning


def test_only_time_fields_are_left_out():
    full = make_record(1, **{"time/physics": 0.5})
    assert full.keys() - without_time(full).keys() == TIME_FIELDS | {"time/physics"}


# --- full disk -----------------------------------------------------------------------------------


class FullFile:
    """A file on a disk that has room for `room` more bytes."""

    def __init__(self, file, room):
        self._file, self._room = file, room
        self.fileno, self.truncate, self.close = file.fileno, file.truncate, file.close

    def write(self, raw):
        if not self._room:
            raise OSError(28, "No space left on device")
        written = self._file.write(raw[: self._room])
        self._room -= written
        return written


@pytest.mark.parametrize("room", [0, 10])
def test_full_disk_is_named_and_leaves_whole_records(tmp_path, room):
    path = tmp_path / "metrics.jsonl"
    with open_log(tmp_path) as log:
        log.write(make_record(1))
        before = path.read_bytes()
        log._file = FullFile(log._file, room)
        message = f"{path}: No space left on device; make room on its disk"
        with pytest.raises(ResourceError, match=message) as caught:
            log.write(make_record(2))
        assert caught.value.exit_code == 6
    assert path.read_bytes() == before


def test_line_that_the_disk_takes_in_parts_is_whole(tmp_path):
    with open_log(tmp_path) as log:
        log._file = file = FullFile(log._file, 1)
        file.write = lambda raw, write=log._file._file.write: write(raw[:7])
        log.write(make_record(1))
    assert read_metrics(tmp_path) == [make_record(1)]


def test_sync_names_a_file_that_does_not_reach_the_disk(tmp_path, monkeypatch):
    def refuse(handle):
        raise OSError(28, "No space left on device")

    with open_log(tmp_path) as log:
        monkeypatch.setattr(log_module.os, "fsync", refuse)
        with pytest.raises(ResourceError, match="metrics.jsonl: No space"):
            log.sync()


# --- the sink ------------------------------------------------------------------------------------


class ListSink:
    """A sink that keeps the calls."""

    def __init__(self, last_step=-1, close_error=None):
        self.calls, self._last_step, self._close_error = [], last_step, close_error

    def open(self, settings, run_dir, start_step):
        self.calls.append(("open", settings, run_dir, start_step))
        return self._last_step

    def write(self, step, metrics):
        self.calls.append(("write", step, metrics))

    def flush(self):
        self.calls.append(("flush",))

    def close(self):
        self.calls.append(("close",))
        if self._close_error:
            raise self._close_error


def test_sink_gets_numbers_by_group_at_environment_steps(tmp_path):
    sink = ListSink()
    (tmp_path / "config.yaml").write_text("env: ant-dir\n")
    with open_log(tmp_path, sink=sink) as log:
        log.sync()
        assert sink.calls == []  # a run is saved before the sink is imported and opened
        log.write(make_record(1, update={"loss": 0.5}, text="no number", missing=None))
        log.sync()
    opened, written, *rest = sink.calls
    assert opened == ("open", {"env": "ant-dir"}, tmp_path, 0) and rest == [("flush",), ("close",)]
    assert written[:2] == ("write", 80_000)
    assert written[2] == {
        "train/iteration": 1,
        "train/seconds": 2.0,
        "train/steps_per_second": 40_000.0,
        "train/return_pre": -11.25,
        "train/return_post": 1 - 0.9,
        "train/kl": 0.00987,
        "update/loss": 0.5,
    }


@pytest.mark.parametrize(
    ("last_step", "steps"), [(160, [240]), (80, [160, 240]), (-1, [80, 160, 240])]
)
def test_resume_writes_the_history_that_a_sink_lacks(tmp_path, last_step, steps):
    with open_log(tmp_path) as log:
        for iteration in range(1, 5):
            log.write(make_record(iteration, env_steps=80 * iteration))
    sink = ListSink(last_step)
    with open_log(tmp_path, sink=sink, resume=True, start_iteration=2) as log:
        log.write(make_record(3, env_steps=240))
    assert sink.calls[0] == ("open", {}, tmp_path, 160)
    assert [call[1] for call in sink.calls if call[0] == "write"] == steps


def test_sink_starts_afresh_when_a_file_is_converted(tmp_path):
    old = {**make_record(1), "iteration": 0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(old) + "\n")
    sink = ListSink()
    with open_log(tmp_path, sink=sink, resume=True, start_iteration=1) as log:
        log.write(make_record(2))
    assert sink.calls[0] == ("open", {}, Path(tmp_path), 0)
    assert [call[1] for call in sink.calls if call[0] == "write"] == [80_000, 160_000]


def test_log_that_cannot_be_closed_hides_no_failure(tmp_path):
    for failure, message in ((KeyError("a bug"), "a bug"), (None, "No space left")):
        path = tmp_path / message
        path.mkdir()
        with pytest.raises((KeyError, ResourceError), match=message):
            sink = ListSink(close_error=ResourceError("No space left"))
            with open_log(path, sink=sink) as log:
                log.write(make_record(1))
                if failure:
                    raise failure
