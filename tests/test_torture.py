"""The short form of `make torture`: everything holds, and nothing holds in a broken product."""

import json
import os
import random
import signal
import subprocess
import sys

import pytest
from commands import REPOSITORY

from torture.__main__ import KINDS
from torture.kills import Events
from torture.records import Row, run_trials, to_markdown, to_text

QUICK = [name for name, kind in KINDS.items() if kind.quick]
NEEDS_MOUNTS = "shared memory"


def torture(folder, *options):
    """Runs the short form; returns its rows by kind."""
    record = folder / "record.json"
    command = [sys.executable, "-m", "torture", "--quick", "--json", record, *options]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=variables, capture_output=True, text=True)
    assert record.exists(), done.stderr
    rows = json.loads(record.read_text())["rows"]
    assert [row["kind"] for row in rows] == QUICK
    return {row["kind"]: row for row in rows}, done


def test_product_holds(tmp_path):
    rows, done = torture(tmp_path)
    assert [row["failures"] for row in rows.values()] == [[]] * len(rows), done.stdout
    assert done.returncode == 0
    assert all(row["number"] for name, row in rows.items() if name != NEEDS_MOUNTS)


def test_every_kind_fails_on_a_broken_product(tmp_path):
    rows, done = torture(tmp_path, "--broken")
    holding = [name for name, row in rows.items() if row["number"] and not row["failures"]]
    assert holding == [], done.stdout
    assert done.returncode == 1


# --- its parts ------------------------------------------------------------------------------------


def test_trials_are_counted_with_failures_and_notes():
    outcomes = {"a": "", "b": "broke\nin two", "c": "note: code 2:", "d": "note: code 2:"}
    row = run_trials("kind", [(name, lambda text=text: text) for name, text in outcomes.items()])
    assert (row.number, row.failures, row.note) == (4, ("b: broke in two",), "code 2: 2")
    assert row.result == "3 of 4" and not row.is_good
    assert "| x | 3 of 4 | 0 s | code 2: 2 |" in to_markdown([row], {"kind": "x"})
    assert "    b: broke in two" in to_text([row])
    empty = Row("kind", 0, (), 0.0)
    assert empty.result == "not possible here" and not empty.is_good


EVENTS = ["mkdir", "open", "flush", "open", "rename", "remove"]


def change_files(events, folder):
    """Makes the changes of EVENTS in a process of its own; returns its exit code."""
    number = os.fork()
    if number == 0:
        events.install()
        (folder / "a").mkdir()
        with open(folder / "a" / "one", "wb") as file:
            file.write(b"12345")
            file.flush()
            os.fsync(file.fileno())
        with open(folder / "two", "wb") as file:
            file.write(b"x" * 1000)
        os.rename(folder / "a", folder / "b")
        os.unlink(folder / "two")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


@pytest.mark.parametrize("number", range(len(EVENTS) + 1))
def test_process_is_killed_before_the_chosen_change(number, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    events = Events(place, tmp_path / "count", number, cuts_power=True, seed=3)
    code = change_files(events, place)
    assert code == (-signal.SIGKILL if number else 0)
    count = (tmp_path / "count").stat().st_size
    assert count == (number or len(EVENTS))
    done = EVENTS[: count - 1] if number else EVENTS
    assert (place / "b").exists() == ("rename" in done)
    assert (place / "two").exists() == (done.count("open") == 2 and "remove" not in done)
    if "rename" in done:
        assert (place / "b" / "one").read_bytes() == b"12345"  # it was flushed
    if number == 6:
        size = random.Random(3).randint(0, 1000)
        assert (place / "two").stat().st_size == size < 1000  # it was not
