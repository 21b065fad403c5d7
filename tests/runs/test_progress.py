import io
import re
import threading
import time

import pytest
from rich.console import Console
from run_files import make_record, open_log

from metarl.config.schema import parse
from metarl.runs import progress
from metarl.runs.progress import (
    ProgressLines,
    TimeLeft,
    estimate_finish,
    format_time_left,
    heartbeat,
    is_terminal,
)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return Terminal()


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until the test moves it."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def wait_for(condition):
    """Waits at most 10 s for a thread."""
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("nothing happened in 10 s")


# --- lines ---------------------------------------------------------------------------------------


def test_pipe_gets_the_first_and_last_line_and_one_every_2_s(tmp_path, clock):
    stream = io.StringIO()
    with open_log(tmp_path, stream=stream) as log:
        for iteration, passed in enumerate([0.0, 1.9, 0.2, 0.5, 0.5], start=1):
            clock[0] += passed
            log.write(make_record(iteration))
    printed = stream.getvalue().splitlines()
    assert [line.split()[1] for line in printed] == ["1/5", "3/5", "5/5"]


def test_line_shows_steps_returns_and_time_left(tmp_path, clock):
    stream = io.StringIO()
    with open_log(tmp_path, stream=stream, total_iterations=1001) as log:
        log.write(make_record(1))
    assert stream.getvalue() == (
        "iteration 1/1001  steps 80,000  steps/s 40,000  return -11.2 -> 0.1  kl 0.0099  "
        "left about 0:33:20\n"
    )


def test_interrupted_run_shows_its_last_iteration(tmp_path, clock):
    stream = io.StringIO()
    log = open_log(tmp_path, stream=stream)
    log.write(make_record(1))
    log.write(make_record(2, kl=float("nan"), return_post=None))
    log.close()
    assert "iteration 2/5" in stream.getvalue() and "-> -  kl nan" in stream.getvalue()


def test_time_left_follows_the_pace_since_a_resume(tmp_path, clock):
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 1, "seconds": 1000.0}\n')
    stream = io.StringIO()
    with open_log(tmp_path, stream=stream, resume=True, start_iteration=1) as log:
        for iteration in (2, 3):
            clock[0] += 3
            log.write(make_record(iteration, seconds=1000.0 + 10 * iteration))
    assert stream.getvalue().splitlines()[-1].endswith("left about 0:00:20")


def test_time_left_includes_the_work_after_training(tmp_path, clock):
    stream = io.StringIO()
    with open_log(tmp_path, stream=stream, total_iterations=3, finish_iterations=2.5) as log:
        for iteration in (1, 2, 3):
            clock[0] += 3
            log.write(make_record(iteration))
    lines = stream.getvalue().splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == ["0:00:09", "0:00:07", "0:00:05"]


def test_time_left_counts_rare_costly_updates_once():
    left = TimeLeft(1000, 0.0)
    seconds, estimates = 0.0, []
    for iteration in range(1, 401):
        seconds += 101.0 if iteration % 50 == 0 else 1.0  # 3 s on average
        estimates.append(left.update({"iteration": iteration, "seconds": seconds}))
    for done in (300, 349, 350, 351, 400):
        assert estimates[done - 1] == pytest.approx(3.0 * (1000 - done), rel=0.35)


def test_work_after_training_goes_by_the_time_to_collect():
    left = TimeLeft(10, 5.0)
    for iteration in (1, 2, 3):
        record = {"iteration": iteration, "seconds": 10.0 * iteration, "time/collect": 2.0}
        seconds = left.update(record)
    assert seconds == pytest.approx(7 * 10.0 + 5 * 2.0)


def test_long_iteration_prints_heartbeats(clock):
    stream = io.StringIO()
    lines = ProgressLines(stream, 5, done=2)
    lines.start()
    clock[0] += 4.9
    lines._beat()
    assert stream.getvalue() == ""
    clock[0] += 0.2
    wait_for(stream.getvalue)
    assert stream.getvalue() == "iteration 3/5 ... 5 s\n"
    lines.show(make_record(3), 0.0)
    clock[0] += 8.9
    lines._beat()
    assert stream.getvalue().count("\n") == 2
    clock[0] += 0.2
    wait_for(lambda: stream.getvalue().count("\n") == 3)
    assert stream.getvalue().endswith("iteration 4/5 ... 9 s\n")
    lines.close()


def test_notice_goes_to_the_error_output_of_a_pipe(tmp_path, capfd):
    with open_log(tmp_path) as log:
        log.notify("stopping")
    assert capfd.readouterr().err == "\nstopping\n"


# --- table ---------------------------------------------------------------------------------------


def test_terminal_shows_the_same_as_a_table_in_place(tmp_path, terminal):
    with open_log(tmp_path, stream=terminal) as log:
        log.write(make_record(1))
        log.write(make_record(2))
    shown = terminal.getvalue()
    assert Console(file=terminal).is_terminal and "\x1b[" in shown
    for text in (
        "return before -> after",
        "time left",
        "-11.2 -> 1.1",
        "2/5",
        "160,000",
        "about 0:00:06",
    ):
        assert text in shown


def screen_of(text):
    """Returns the lines that a terminal shows: newlines, returns, erased lines and cursor-up."""
    lines, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[[\d;?]*[a-zA-Z]|.|\n|\r", text):
        if token == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif token == "\r":
            column = 0
        elif token == "\x1b[1A":
            row -= 1
            assert row >= 0
        elif token == "\x1b[2K":
            lines[row] = ""
        elif not token.startswith("\x1b"):
            line = lines[row].ljust(column)
            lines[row], column = line[:column] + token + line[column + 1 :], column + 1
    return [line.rstrip() for line in lines if line.strip()]


def test_table_is_whole_after_an_interrupt(tmp_path, terminal):
    with pytest.raises(KeyboardInterrupt):
        with open_log(tmp_path, stream=terminal) as log:
            for iteration in (1, 2):
                log.write(make_record(iteration))
            wait_for(lambda: "2/5" in terminal.getvalue())
            terminal.write("^C")  # as the terminal echoes it
            log.notify("metarl: SIGINT: stopping")
            log.write(make_record(3))
            wait_for(lambda: "stopping" in terminal.getvalue())
            terminal.write("^C")
            raise KeyboardInterrupt
    lines = screen_of(terminal.getvalue())
    assert lines[0][0] == "┏" and lines[-2][0] == "└"
    assert lines[-1] == "metarl: SIGINT: stopping"
    assert [line.split()[1] for line in lines[3:6]] == ["1/5", "2/5", "3/5"] and len(lines) == 8


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (25, "iteration"),
        (40, "iteration return"),
        (60, "iteration steps return left"),
        (120, "iteration steps steps/s return kl left"),
    ],
)
def test_narrow_terminal_gets_fewer_columns(width, titles, tmp_path, terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    with open_log(tmp_path, stream=terminal) as log:
        log.write(make_record(1, return_pre=-113.84))
        log.write(make_record(2, return_pre=-113.84))
    lines = screen_of(terminal.getvalue())
    assert max(map(len, lines)) <= width
    found = {"iteration": "2/5", "return": "-113.8 -> 1.1", "left": "about 0:00:06"}
    found |= {"steps": "160,000", "steps/s": "40,000", "kl": "0.0099"}
    cells = [cell.strip() for cell in lines[-2].strip("\u2502").split("\u2502")]
    assert cells == [found[name] for name in titles.split()]


def test_time_left_of_years_is_in_days():
    assert format_time_left(8_639_999.0) == "99 days, 23:59:59"
    assert format_time_left(8_640_000.0) == "100 days" and format_time_left(8.64e19).endswith(
        "days"
    )


def test_table_shows_the_running_iteration_before_the_first_row(tmp_path, terminal):
    with open_log(tmp_path, stream=terminal, resume=True, start_iteration=0):
        wait_for(lambda: "iteration 1/5 ... 0 s" in terminal.getvalue())
    assert "1/5" not in " ".join(screen_of(terminal.getvalue()))


# --- heartbeat -----------------------------------------------------------------------------------


def test_heartbeat_prints_lines_into_a_pipe():
    stream = io.StringIO()
    with heartbeat("evaluating on 20 tasks", stream=stream, every=0.01):
        wait_for(lambda: stream.getvalue().count("\n") >= 2)
    lines = stream.getvalue().splitlines()
    assert set(lines) == {"evaluating on 20 tasks ... 0 s"}
    threading.Event().wait(0.05)
    assert stream.getvalue().splitlines() == lines


def test_heartbeat_is_silent_in_a_short_call():
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        with heartbeat("evaluating", stream=stream):
            raise KeyboardInterrupt
    assert stream.getvalue() == "" and not is_terminal(stream)


def test_heartbeat_clears_its_line_on_a_terminal(terminal):
    began = time.monotonic()
    with heartbeat("filming", stream=terminal):
        wait_for(terminal.getvalue)
    assert time.monotonic() - began < 10.0
    assert "filming ... 1 s" in terminal.getvalue() and screen_of(terminal.getvalue()) == []


def test_heartbeat_of_a_long_text_stays_on_one_line(terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    with heartbeat("explaining the policy on 200 tasks of \u6b69\u304f", stream=terminal):
        wait_for(terminal.getvalue)
    line = terminal.getvalue().split("\x1b[2K")[1].strip("\r")
    assert line.startswith("explaining the") and line.endswith(" ... 1 s")
    assert len(line) + 2 == 39  # a Chinese character has two columns


def test_heartbeat_survives_a_closed_pipe():
    stream = io.StringIO()
    with heartbeat("filming", stream=stream, every=0.01):
        stream.close()
        threading.Event().wait(0.05)


# --- time after training -------------------------------------------------------------------------


def test_finish_is_estimated_in_iterations():
    flags = "--env x --sampler.num-tasks 10 --sampler.num-episodes 5 --sampler.num-adaptations 1"
    both = parse([*flags.split(), "--trainer.evaluate-tasks", "20"])
    evaluation = parse([*flags.split(), "--trainer.evaluate-tasks", "20", "--trainer.no-video"])
    neither = parse([*flags.split(), "--trainer.evaluate-tasks", "0", "--trainer.no-video"])
    # 20 tasks x 4 rollouts, where an iteration has 10 tasks x 2 rollouts; 3,000 / 100 episodes
    assert estimate_finish(evaluation) == 4.0 and estimate_finish(neither) == 0.0
    assert estimate_finish(both) == 34.0
