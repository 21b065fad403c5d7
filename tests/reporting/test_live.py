"""The section of the report about live robots, from the log of a server."""

import json
import re

import pytest
from run_files import write_run

from metarl.deployment.serving.log import Log
from metarl.reporting.live import read_sessions
from metarl.reporting.report import write_report


@pytest.fixture
def served(tmp_path):
    """A run that was served twice; the second server was killed while it wrote."""
    run = write_run(tmp_path / "run")
    log = Log(run / "live.jsonl")
    numbers = {"unusable": 1, "limited": 2, "silences": 3}
    log.write("start", run="<run>")
    log.write("episode", number=0, end="fall", steps=1200, **{"return": 10.0}, **numbers)
    log.write("episode", number=1, end="end", steps=34, **{"return": 20.0}, **numbers)
    latency = {"median": 0.151, "p99.9": 0.42, "max": 1.0}
    log.write("summary", refused={"no message": 4, "wrong size": 5}, latency_ms=latency)
    log.write("start", run="<run>")
    log.write("begin")
    log.close()
    with open(run / "live.jsonl", "a") as file:
        file.write('{"event": "epi')
    return run


def cells(page, row):
    """Returns the texts of a row of the section."""
    section = page.partition("<h2>Live robots</h2>")[2].partition("</section>")[0]
    line = section.partition("<tbody>\n")[2].splitlines()[row]
    return re.findall(r"<t[hd][^>]*>([^<]*)<", line)


def test_report_shows_what_was_served(served, tmp_path):
    write_report([served], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    first, second = cells(page, 0), cells(page, 1)
    assert first[0] == "run" and re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d", first[1])
    assert first[2:5] == ["2", "1", "1,234"] and float(first[5]) == 15.0
    assert first[6:] == ["4", "6", "2", "9", "0.15", "0.42"]
    assert second[2:] == ["0", "0", "0", "-", "0", "0", "0", "0", "-", "-"]


def test_episodes_without_a_number_count_as_far_as_known(tmp_path):
    run = write_run(tmp_path / "run", records=1)
    records = [
        {"event": "start", "time": 1e20},  # the clock of a board that was not set
        {"event": "episode", "return": None, "end": None, "steps": 5, "limited": 1},
        {"event": "episode", "return": 4.0, "end": "fall", "steps": 2, "silences": 3},
        {"event": "episode"},
    ]
    (run / "live.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    write_report([run], tmp_path / "page.html")
    row = cells((tmp_path / "page.html").read_text(), 0)
    assert row[1:] == ["-", "3", "1", "7", "4.00", "1", "3", "0", "0", "-", "-"]


def test_log_is_read_in_sessions(served):
    sessions = read_sessions(served / "live.jsonl")
    events = [[record["event"] for record in session] for session in sessions]
    assert events == [["start", "episode", "episode", "summary"], ["start", "begin"]]
    assert json.loads((served / "live.jsonl").read_text().splitlines()[0])["run"] == "<run>"


def test_report_without_a_log_has_no_section(tmp_path):
    write_report([write_run(tmp_path / "run")], tmp_path / "page.html")
    assert "Live robots" not in (tmp_path / "page.html").read_text()
