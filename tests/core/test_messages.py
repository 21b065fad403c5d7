"""Texts of others are harmless on the terminal."""

import io
import os
import subprocess
import sys

import pytest
from commands import REPOSITORY

from metarl.cli import commands, train
from metarl.core.errors import run_command
from metarl.core.messages import (
    describe_error,
    format_number,
    notify,
    printable,
    printable_tree,
    show,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain, also é and 学", "plain, also é and 学"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("a\nb\tc\r", "a\\x0ab\\x09c\\x0d"),
        ("csi \x9b", "csi \\x9b"),
        ("turned \u202etxt", "turned \\u202etxt"),
        ("line\u2028sep", "line\\u2028sep"),
        (os.fsdecode(b"\xff\x80"), "\\xff\\x80"),
        ("\ud800", "\\ud800"),
    ],
)
def test_unsafe_characters_become_escapes(text, expected):
    assert printable(text) == expected
    expected.encode("utf-8")


def test_long_texts_are_cut_and_lines_may_stay():
    assert printable("x" * 100, longest=10) == "x" * 10 + " ... (100 characters)"
    assert printable("a\nb\x1b", keeps_lines=True) == "a\nb\\x1b"
    assert printable_tree({"a\x1b": ["b\x07", 1, None]}) == {"a\\x1b": ["b\\x07", 1, None]}


def test_error_of_foreign_code_is_one_short_line():
    class Evil(Exception):
        def __str__(self):
            return "\x1b[2J\n" + "x" * 100_000

    Evil.__name__ = "Ev\x1bil"
    try:
        raise Evil
    except Evil as error:
        text = describe_error(error)
    assert text.startswith("Ev\\x1bil: \\x1b[2J x") and len(text) < 1000 and ", line " in text


def test_output_is_escaped_and_a_start_is_not(capsys):
    show("a\x1b\nb", start="\r\x1b[2K", end="")
    notify("c\x1b\nd" + "x" * 10_000)
    out, err = capsys.readouterr()
    assert out == "\r\x1b[2Ka\\x1b\nb"
    assert err.startswith("metarl: c\\x1b\\x0adx") and err.count("\n") == 1 and len(err) < 5000


def test_traceback_of_a_bug_has_no_control_characters(capsys, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def fail():
        raise ZeroDivisionError("\x1b[2J")

    with pytest.raises(ZeroDivisionError) as caught:
        run_command(fail)
    sys.excepthook(caught.type, caught.value, caught.tb)
    err = capsys.readouterr().err
    assert "Traceback" in err and "ZeroDivisionError: \\x1b[2J" in err and "\x1b" not in err


def test_names_of_arguments_are_escaped(capsys):
    assert commands.main(["evaluate", "no\x1b[2Jrun"]) == 5
    assert commands.main(["train", "--env", "no\x1b[2J"]) == 2
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err and err.count("\\x1b[2J") >= 2


def test_key_of_a_file_of_settings_is_escaped(tmp_path, capsys):
    path = tmp_path / "my.yaml"
    path.write_text('env: navigation-2d\n"\\e[2Jkey": 1\n')
    assert commands.main(["train", "--config", str(path)]) == 2
    assert "unknown key \\x1b[2Jkey" in capsys.readouterr().err


COMMAND = """
import sys
from metarl.core.errors import ConfigError, run_command
from metarl.core.messages import show

def command():
    {line}

sys.exit(run_command(command))
"""


def call(line, shell, tmp_path, **variables):
    (tmp_path / "command.py").write_text(COMMAND.format(line=line))
    words = f"{sys.executable} {tmp_path / 'command.py'} {shell}"
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), **variables}
    return subprocess.run(words, shell=True, capture_output=True, text=True, env=env)


def test_full_error_output_keeps_the_exit_code(tmp_path):
    assert call("raise ConfigError('wrong')", "2>/dev/full", tmp_path).returncode == 2


def test_full_output_is_named(tmp_path):
    done = call("show('text')", ">/dev/full", tmp_path)
    assert done.returncode == 6
    assert done.stderr.startswith("metarl: error: [Errno 28] No space left on device: 'the stand")


def test_ascii_terminal_gets_escapes(tmp_path):
    variables = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = call("show('B\\u00fccher')", "", tmp_path, **variables)
    assert (done.returncode, done.stdout) == (0, "B\\xfccher\n")


def test_deleted_directory_is_named(tmp_path):
    (tmp_path / "gone").mkdir()
    command = f"cd {tmp_path / 'gone'} && rmdir {tmp_path / 'gone'} && {sys.executable} -c "
    code = "from metarl.core.errors import run_command; print(run_command(print))"
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    shell = f'{command}"{code}"'
    done = subprocess.run(shell, shell=True, capture_output=True, text=True, env=env)
    assert done.stdout == "2\n"
    assert done.stderr == (
        "metarl: error: the current directory was deleted; change to another one\n"
    )


def test_library_that_does_not_fit_in_memory_is_exit_code_6(capsys):
    def load():
        raise ImportError("libtorch_cpu.so: failed to map segment from shared object")

    assert run_command(load) == 6
    assert "raise the limit of this shell (ulimit -v)" in capsys.readouterr().err


def test_stream_that_is_closed_is_no_error(monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    notify("nobody reads this")


@pytest.mark.parametrize("flag", ["--env", "--seed", "--trainer.logger", "--device"])
def test_very_long_value_leaves_its_message_readable(flag, capsys):
    assert train.main(["--env", "navigation-2d", flag, "a" * 20000]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "aaa... (20," in err and len(err) < 400


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (None, 2, "-"),
        (-12.345, 1, "-12.3"),
        (0.0, 2, "0.00"),
        (-0.0, 2, "0.00"),
        (0.01, 2, "0.01"),
        (-0.0034567, 2, "-0.00346"),
        (0.0512, 1, "0.0512"),
        (2e-7, 4, "2e-07"),
        (9_999_999.0, 2, "9999999.00"),
        (-1.234567e12, 2, "-1.23457e+12"),
        (float("inf"), 2, "inf"),
        (float("nan"), 2, "nan"),
    ],
)
def test_tiny_and_huge_numbers_keep_their_digits(value, decimals, text):
    assert format_number(value, decimals) == text
