import errno
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from metarl.core.errors import ConfigError, ResourceError
from metarl.core.machine import files
from metarl.core.machine.files import (
    Unreadable,
    clean_name,
    load_json,
    name_disk_failures,
    parse_json,
    require_writable,
    write_atomically,
)
from metarl.core.machine.yaml_files import dump_yaml, load_yaml, parse_yaml


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomically(path, "old")

    def no_space(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "name"),
    [("ant-dir", "ant-dir"), ("my.module:make", "my.module-make"), ("../a b", "a-b"), ("/", "")],
)
def test_clean_name_has_no_separators(text, name):
    assert clean_name(text) == name


# --- reading -------------------------------------------------------------------------------------

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "more than 50,000 values"),
        ("a: " + "[" * 50_000, "more than 50 levels"),
        ("\n".join(" " * i + f"k{i}:" for i in range(300)), "more than 50 levels"),
        ("a: &x [*x]", "is within itself"),
        ("seed: 2001-99-99", "month must be in 1..12"),
        ("seed: !!int abc", "invalid literal"),
        ("seed: !!bool abc", "abc"),
        ("seed: !!float ''", "index"),
        ("seed: !!timestamp abc", "NoneType"),
        ("seed: " + "9" * 5000, "line 1: a number has more than 100 digits"),
        ("seed: 0x" + "f" * 5000, "line 1: a number has more than 100 digits"),
        ("? [a]\n: 1", "unhashable"),
        ("a: 1\na: 2", "line 2: key a is given twice"),
        ("[1]", "must hold a group of keys"),
        ("", "must hold a group of keys"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
        ("# " + "x" * 500_000, "is larger than 500,000 bytes"),
    ],
)
def test_odd_yaml_is_refused_in_one_line(text, message, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_yaml(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", ["1e-3", "-2.5e4", "+1.E5", ".5e+2", "1e-05", "3E0"])
def test_yaml_number_with_exponent_is_a_float(text):
    tree = parse_yaml(f"x: {text}\ny: '{text}'\nz: [{text}, {text}m]", "")
    assert tree == {"x": float(text), "y": text, "z": [float(text), f"{text}m"]}
    assert type(tree["x"]) is float


def test_written_yaml_is_read_as_it_was():
    tree = {"b": "1e5", "a": [1e-5, 1e300, "-1E-3", "e5", 3], "1e2": None}
    assert parse_yaml(dump_yaml(tree), "") == tree
    assert parse_yaml(dump_yaml(tree, default_flow_style=True), "") == tree


def test_yaml_with_anchors_is_read(tmp_path):
    path = tmp_path / "suite.yaml"
    path.write_text("base: &b {x: 1}\nruns: [{<<: *b, y: 0x10}, *b]\n")
    assert load_yaml(path) == {"base": {"x": 1}, "runs": [{"x": 1, "y": 16}, {"x": 1}]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 50_000 + "]" * 50_000, "more than 50 levels"),
        ('{"a":' * 60 + "1" + "}" * 60, "more than 50 levels"),
        ("[1e999]", "has the number 1e999"),
        ("[NaN]", "has the number NaN"),
        ("[-Infinity]", "has the number -Infinity"),
        ("9" * 5000, "limit"),
        ("{", "line 1 column 2"),
        (b"\xff", "decode"),
    ],
)
def test_odd_json_is_refused_in_one_line(text, message):
    with pytest.raises(Unreadable, match=message) as caught:
        parse_json(text)
    assert "\n" not in str(caught.value)


def test_brackets_in_texts_are_no_levels():
    tree = {"a": ["[" * 60, '\\"[[', {"b": [1.5, -0.0, 2**70]}]}
    assert parse_json(json.dumps(tree)) == tree


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe", "device", "loop", "", "missing"):
        with pytest.raises(ConfigError, match=f"^{tmp_path / name}: "):
            load_yaml(tmp_path / name)
        with pytest.raises((OSError, Unreadable)):
            load_json(tmp_path / name)


def test_large_file_is_refused_unread(tmp_path):
    with open(tmp_path / "run.json", "wb") as file:
        file.truncate(1 << 40)  # a hole, which takes no space
    with pytest.raises(Unreadable, match="is larger than 256,000,000 bytes"):
        load_json(tmp_path / "run.json")


# --- writing -------------------------------------------------------------------------------------


def test_write_follows_no_planted_link(tmp_path, monkeypatch):
    outside = tmp_path / "outside"
    outside.write_text("precious")
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "0" * 2 * size)
    (tmp_path / "run").mkdir()
    for name in (f".a.json.{os.getpid()}", f".a.json.{os.getpid()}-00000000"):
        (tmp_path / "run" / name).symlink_to(outside)
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "run" / "a.json", "new")
    (tmp_path / "run" / "b.json").symlink_to(outside)
    write_atomically(tmp_path / "run" / "b.json", "new")
    assert outside.read_text() == "precious" and not (tmp_path / "run" / "b.json").is_symlink()


def test_write_removes_what_killed_ones_left(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    old = [f".a.json.{ended.pid}", f".a.json.{ended.pid}-0123abcd"]
    kept = [f".a.json.{os.getpid()}-0123abcd", f".b.json.{ended.pid}", f".a.json.{ended.pid}.bak"]
    for name in old + kept:
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (0, 0))
    write_atomically(tmp_path / "a.json", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "a.json"])


def test_read_only_disk_names_the_file(tmp_path, monkeypatch):
    def refuse(path, *args, **options):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OSError, match=r"Read-only file system: '[^']*/first.json'"):
        write_atomically(tmp_path / "first.json", "content")


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.EDQUOT, "make room on its disk"),
        (errno.EROFS, "make its folder writable"),
        (errno.ENOENT, "check its folder and disk"),
    ],
)
def test_hint_at_a_disk_failure_fits_it(number, hint, tmp_path):
    text = re.escape(f"{tmp_path}: {os.strerror(number)}; {hint}")
    with pytest.raises(ResourceError, match=f"^{text}$"), name_disk_failures(tmp_path):
        raise OSError(number, os.strerror(number))


def test_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    require_writable(tmp_path, "the page")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ResourceError, match="the page cannot be written to it; make the folder"):
        require_writable(tmp_path, "the page")


def test_full_disk_names_the_file(tmp_path, monkeypatch):
    def refuse(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=r"No space left on device: '.*first.json'"):
        write_atomically(tmp_path / "first.json", "content")
    assert list(tmp_path.iterdir()) == []
