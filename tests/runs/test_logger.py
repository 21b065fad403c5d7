import io
import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

from metarl.core.errors import CheckpointError, ResourceError
from metarl.runs import logger as log_module
from metarl.runs.logger import TIME_FIELDS, RunLog, without_time


def record(iteration, **more):
    return {
        "iteration": iteration,
        "env_steps": 80_000 * (iteration + 1),
        "seconds": 2.0 * (iteration + 1),
        "steps_per_second": 40_000.0,
        "return_pre": -11.25,
        "return_post": 0.1 + iteration,
        "kl": 0.00987,
        **more,
    }


def opened(folder, **settings):
    settings = {"total_iterations": 5, "tensorboard": False, "stream": io.StringIO(), **settings}
    return RunLog(folder, **settings)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until the test moves it."""
    now = [100.0]
    monkeypatch.setattr(log_module.time, "monotonic", lambda: now[0])
    return now


# ------------------------------------------------------------------------------------- metrics.jsonl


def test_a_record_is_one_line_that_is_on_file_at_once_with_exact_numbers(tmp_path):
    with opened(tmp_path) as log:
        log.write(record(0, exact=0.1 + 0.2, count=2**60, accepted=True))
        written = lines(tmp_path)
    assert written == [record(0, exact=0.1 + 0.2, count=2**60, accepted=True)]
    assert type(written[0]["env_steps"]) is int and written[0]["accepted"] is True


def test_groups_become_keys_and_numbers_of_numpy_and_torch_become_pythons(tmp_path):
    update = {"loss": torch.tensor(1.5), "steps": np.int64(3), "inner": {"lr": np.float64(0.1)}}
    with opened(tmp_path) as log:
        log.write(record(0, update=update, **{"time/physics": 0.5}))
    written = lines(tmp_path)[0]
    assert written["update/loss"] == 1.5 and written["update/inner/lr"] == 0.1
    assert type(written["update/steps"]) is int and written["time/physics"] == 0.5


def test_numbers_that_are_not_finite_are_null_and_named_and_the_json_stays_strict(tmp_path):
    with opened(tmp_path) as log:
        log.write(record(0, kl=float("nan"), update={"loss": torch.tensor(float("-inf"))}))
        log.write(record(1))
    text = (tmp_path / "metrics.jsonl").read_text()
    first, second = (json.loads(line, parse_constant=pytest.fail) for line in text.splitlines())
    assert first["kl"] is None and first["update/loss"] is None
    assert first["non_finite"] == ["kl", "update/loss"] and "non_finite" not in second


def test_the_log_of_another_run_is_never_written_over(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("mine\n")
    with pytest.raises(FileExistsError):
        opened(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == "mine\n"


# -------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("half_line", ["", '{"iteration": 4, "env_st', "\x00\x00"])
def test_a_killed_and_resumed_run_has_the_records_of_an_uninterrupted_one(tmp_path, half_line):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    whole.mkdir()
    with opened(whole) as log:
        for iteration in range(5):
            log.write(record(iteration))
    with opened(killed) as log:
        for iteration in range(4):
            log.write(record(iteration, seconds=7.0, steps_per_second=1.0))
    with open(killed / "metrics.jsonl", "a") as file:
        file.write(half_line)
    with opened(killed, resume=True, start_iteration=2) as log:
        assert log.last_record["iteration"] == 1 and log.last_record["seconds"] == 7.0
        for iteration in range(2, 5):
            log.write(record(iteration))
    assert [without_time(r) for r in lines(killed)] == [without_time(r) for r in lines(whole)]


def test_resume_keeps_the_bytes_of_the_records_it_keeps(tmp_path):
    text = '{"iteration": 0,   "x": 1.50}\n{"iteration": 1}\n'
    (tmp_path / "metrics.jsonl").write_text(text)
    opened(tmp_path, resume=True, start_iteration=1).close()
    assert (tmp_path / "metrics.jsonl").read_text() == text.splitlines(keepends=True)[0]


def test_resume_from_the_first_iteration_starts_with_nothing(tmp_path):
    with opened(tmp_path, resume=True) as log:
        assert log.last_record is None
        log.write(record(0))
    assert len(lines(tmp_path)) == 1


def test_resume_says_which_line_in_the_middle_is_no_record_and_leaves_the_file(tmp_path):
    text = '{"iteration": 0}\n{"iterat\n{"iteration": 2}\n'
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(CheckpointError, match="metrics.jsonl, line 2: no record"):
        opened(tmp_path, resume=True, start_iteration=3)
    assert (tmp_path / "metrics.jsonl").read_text() == text


NO_TEXT = bytes(range(200, 250))


@pytest.mark.parametrize("raw", [NO_TEXT, NO_TEXT + b"\n", b'{"iteration": 0}\n' + NO_TEXT])
def test_bytes_that_are_no_text_are_never_taken_for_a_half_line(tmp_path, raw):
    (tmp_path / "metrics.jsonl").write_bytes(raw)
    number = 1 + raw.startswith(b"{")
    with pytest.raises(CheckpointError, match=f"metrics.jsonl, line {number}: no record"):
        opened(tmp_path, resume=True, start_iteration=3)
    assert (tmp_path / "metrics.jsonl").read_bytes() == raw


@pytest.mark.parametrize(("text", "count"), [("", 0), ('{"iteration": 0}\n', 1)])
def test_resume_warns_in_one_line_of_records_that_the_disk_has_lost(tmp_path, capsys, text, count):
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    opened(tmp_path, resume=True, start_iteration=3).close()
    words = f"metarl: warning: {path} has {count} of the 3 records before the checkpoint\n"
    assert capsys.readouterr().err == words


def test_time_fields_are_the_only_ones_left_out():
    full = record(0, **{"time/physics": 0.5})
    assert full.keys() - without_time(full).keys() == TIME_FIELDS | {"time/physics"}


# ----------------------------------------------------------------------------------------- full disk


class Full:
    """A file on a disk that has room for so many more bytes."""

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
def test_a_full_disk_is_named_and_leaves_whole_records(tmp_path, room):
    path = tmp_path / "metrics.jsonl"
    with opened(tmp_path) as log:
        log.write(record(0))
        before = path.read_bytes()
        log._file = Full(log._file, room)
        words = f"{path}: No space left on device; make room on its disk"
        with pytest.raises(ResourceError, match=words) as caught:
            log.write(record(1))
        assert caught.value.exit_code == 6
    assert path.read_bytes() == before


def test_a_line_that_the_disk_takes_in_parts_is_whole(tmp_path):
    with opened(tmp_path) as log:
        log._file = file = Full(log._file, 1)
        file.write = lambda raw, write=log._file._file.write: write(raw[:7])
        log.write(record(0))
    assert lines(tmp_path) == [record(0)]


def test_a_record_that_does_not_reach_the_disk_is_told_before_a_checkpoint(tmp_path, monkeypatch):
    def refuse(handle):
        raise OSError(28, "No space left on device")

    with opened(tmp_path) as log:
        monkeypatch.setattr(log_module.os, "fsync", refuse)
        with pytest.raises(ResourceError, match="metrics.jsonl: No space"):
            log.sync()


def test_tensorboard_on_a_full_disk_says_so_once_and_prints_no_traceback(
    tmp_path, monkeypatch, capfd
):
    from tensorboard.summary.writer.record_writer import RecordWriter

    hook = threading.excepthook
    log = opened(tmp_path, tensorboard=True)
    log.write(record(0))
    log.sync()

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RecordWriter, "write", refuse)
    with pytest.raises(ResourceError, match=r"events\.out.*: No space left on device"):
        for iteration in range(1, 200):
            log.write(record(iteration))
            log.sync()
    log.sync()  # no checkpoint stands on events
    with pytest.raises(ResourceError, match=r"events\.out.*: No space left on device"):
        log.close()
    assert capfd.readouterr().err == "" and threading.excepthook is hook


def test_a_log_that_cannot_be_closed_hides_no_failure(tmp_path, monkeypatch):
    def refuse():
        raise OSError(28, "No space left on device")

    for failure, words in ((KeyError("a bug"), "a bug"), (None, "No space left")):
        path = tmp_path / words
        path.mkdir()
        with pytest.raises((KeyError, ResourceError), match=words):
            with opened(path) as log:
                log._events = SimpleNamespace(close=refuse)
                if failure:
                    raise failure


# ------------------------------------------------------------------------------------------ progress


def test_through_a_pipe_the_first_and_last_iteration_and_one_every_two_seconds_are_lines(
    tmp_path, clock
):
    stream = io.StringIO()
    with opened(tmp_path, stream=stream) as log:
        for iteration, passed in enumerate([0.0, 1.9, 0.2, 0.5, 0.5]):
            clock[0] += passed
            log.write(record(iteration))
    printed = stream.getvalue().splitlines()
    assert [line.split()[1] for line in printed] == ["1/5", "3/5", "5/5"]


def test_a_line_shows_all_that_one_watches(tmp_path, clock):
    stream = io.StringIO()
    with opened(tmp_path, stream=stream, total_iterations=1001) as log:
        log.write(record(0))
    assert stream.getvalue() == (
        "iteration 1/1001  steps 80,000  steps/s 40,000  return -11.2 -> 0.1  kl 0.0099  left 0:33:20\n"
    )


def test_an_interrupted_run_shows_its_last_iteration_when_it_is_closed(tmp_path, clock):
    stream = io.StringIO()
    log = opened(tmp_path, stream=stream)
    log.write(record(0))
    log.write(record(1, kl=float("nan"), return_post=None))
    log.close()
    assert "iteration 2/5" in stream.getvalue() and "-> -  kl nan" in stream.getvalue()


def test_the_time_left_follows_the_pace_since_a_resume_and_not_the_pause(tmp_path, clock):
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 0, "seconds": 1000.0}\n')
    stream = io.StringIO()
    with opened(tmp_path, stream=stream, resume=True, start_iteration=1) as log:
        for iteration in (1, 2):
            clock[0] += 3
            log.write(record(iteration, seconds=1000.0 + 10 * iteration))
    assert stream.getvalue().splitlines()[-1].endswith("left 0:00:20")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_the_same_as_a_table_in_place(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    with opened(tmp_path, stream=stream) as log:
        log.write(record(0))
        log.write(record(1))
    shown = stream.getvalue()
    assert Console(file=stream).is_terminal and "\x1b[" in shown
    for text in (
        "return before -> after",
        "time left",
        "-11.2 -> 1.1",
        "2/5",
        "160,000",
        "0:00:06",
    ):
        assert text in shown


# --------------------------------------------------------------------------------------- TensorBoard


def test_tensorboard_gets_every_number_under_a_group_and_forgets_what_a_resume_repeats(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with opened(tmp_path, tensorboard=True) as log:
        for iteration in range(4):
            log.write(record(iteration, kl=1.0, update={"loss": 0.5}))
        log.sync()
    with opened(tmp_path, tensorboard=True, resume=True, start_iteration=2) as log:
        log.write(record(2, kl=2.0, name="a text"))
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/kl")] == [(0, 1), (1, 1), (2, 2)]
    assert "update/loss" in events.Tags()["scalars"]
    assert "train/iteration" not in events.Tags()["scalars"]
