"""Large arrays lie in files without a name, and in memory where there is no room for those."""

import errno
import gc
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from metarl.core.machine import mapped


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(mapped, "LEAST", 1000)
    mapped._warn.cache_clear()
    return tmp_path


def is_mapped(folder):
    """Whether this process has mapped a file of the folder."""
    return str(folder) in Path("/proc/self/maps").read_text(encoding="utf-8")


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
def test_large_array_lies_in_a_file_without_a_name(folder, dtype):
    found = mapped.zeros((50, 3, 8), dtype)
    assert found.dtype == dtype and found.shape == (50, 3, 8) and not found.any()
    found[7, 1:] = 1
    assert found.sum() == 16 and is_mapped(folder) and not list(folder.iterdir())
    view = found[7]
    del found
    assert view.sum() == 16  # a view keeps the file
    del view
    gc.collect()
    assert not is_mapped(folder)


@pytest.mark.parametrize("shape", [(0, 8), (2, 8)])
def test_small_array_is_in_memory(folder, shape):
    assert mapped.zeros(shape, np.float32).shape == shape and not is_mapped(folder)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EOPNOTSUPP])
def test_array_without_room_on_the_disk_is_in_memory(folder, error, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    found = mapped.zeros((50, 8), np.float32)
    found[3] = 1.0
    assert found.sum() == 8.0 and not is_mapped(folder)
    assert f"no temporary file of 0 MB ({os.strerror(error)}); the" in capsys.readouterr().err


def describe_mount(folder, kind):
    """A line of /proc/self/mountinfo for the file system of a folder."""
    device = os.stat(folder).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    return f"36 35 {number} / {folder} rw,noatime shared:1 - {kind} none rw\n"


@pytest.mark.parametrize("kind", ["tmpfs", "ramfs"])
def test_file_in_memory_is_left_out_with_a_warning(kind, folder, monkeypatch, capsys):
    mounts = folder / "mountinfo"
    mounts.write_text(f"21 1 0:77777 / /other rw - ext4 /dev/a rw\n{describe_mount(folder, kind)}")
    monkeypatch.setattr(mapped, "MOUNTS", mounts)
    for _ in range(2):
        assert mapped.zeros((50, 8), np.float32).shape == (50, 8) and not is_mapped(folder)
    err = capsys.readouterr().err
    text = f"stay in memory: {folder} is a {kind}, whose files are in memory; the variable TMPDIR"
    assert err.count("\n") == 1 and text in err
    mounts.write_text(describe_mount(folder, "ext4"))
    found = mapped.zeros((50, 8), np.float32)
    assert is_mapped(folder) and not found.any() and not capsys.readouterr().err


def test_missing_folder_of_temporary_files_leaves_memory(folder, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "missing"))
    assert mapped.zeros((50, 8), np.float32).shape == (50, 8)
