"""The segments of a replay store: each entry once on the disk, shared by checkpoints."""

import json
import os
import random
import subprocess
import sys

import pytest
import torch
from commands import REPOSITORY, damage
from storing_learner import BoundedStore, Store

from metarl.core.errors import CheckpointError, ResourceError
from metarl.runs import checkpoint, storage
from metarl.runs.checkpoint import load_newest, save
from metarl.runs.storage import append_entries


def silent(line):
    raise AssertionError(f"no checkpoint should be passed over: {line}")


class Saves:
    """Saves of a store that grows by `count` entries before each."""

    def __init__(self, folder, keep=3):
        self.folder, self.keep, self.store, self.segments = folder, keep, Store(), ()

    def save(self, step, count):
        self.store.append(torch.full((count, 2), float(step)))
        self.segments = append_entries(self.folder / "replay", self.store, self.segments)
        return save(self.folder, step, {}, {}, keep=self.keep, segments=self.segments)

    def files(self):
        return sorted(path.name for path in (self.folder / "replay").iterdir())


def assert_entries(entries, count):
    assert entries["number"].tolist() == list(range(count)) and len(entries["obs"]) == count


def test_each_entry_is_written_once(tmp_path):
    saves = Saves(tmp_path)
    saves.save(1, 5)
    first = saves.files()
    content = (tmp_path / "replay" / first[0]).read_bytes()
    saves.save(2, 3)
    assert saves.store.read == [(0, 5), (5, 8)]
    assert len(saves.files()) == 2 and saves.files()[0] == first[0]
    assert (tmp_path / "replay" / first[0]).read_bytes() == content
    assert_entries(load_newest(tmp_path, report=silent).replay, 8)


def test_save_without_new_entries_writes_no_segment(tmp_path):
    saves = Saves(tmp_path)
    for step in (1, 2):
        saves.save(step, 5 if step == 1 else 0)
    assert saves.store.read == [(0, 5)] and len(saves.files()) == 1
    assert load_newest(tmp_path).segments == saves.segments


def test_empty_store_is_not_in_the_manifest(tmp_path):
    saves = Saves(tmp_path)
    folder = saves.save(1, 0)
    assert "replay" not in json.loads((folder / "manifest.json").read_text())
    loaded = load_newest(tmp_path)
    assert loaded.replay == {} and loaded.segments == ()


def test_manifest_lists_segments_with_size_and_sum(tmp_path):
    saves = Saves(tmp_path)
    saves.save(1, 5)
    folder = saves.save(2, 3)
    listed = json.loads((folder / "manifest.json").read_text())["replay"]
    assert [(s["start"], s["stop"]) for s in listed] == [(0, 5), (5, 8)]
    for segment in listed:
        content = (tmp_path / "replay" / segment["name"]).read_bytes()
        marks = {name: segment[name] for name in ("sha256", "size")}
        assert marks == storage.fingerprint(content)


@pytest.mark.parametrize("harm", ["damaged", "missing"])
def test_damaged_segment_falls_back_to_an_older_checkpoint(tmp_path, harm):
    saves = Saves(tmp_path)
    saves.save(1, 5)
    saves.save(2, 3)
    path = tmp_path / "replay" / saves.files()[1]
    path.unlink() if harm == "missing" else damage(path)
    lines = []
    loaded = load_newest(tmp_path, report=lines.append)
    assert loaded.step == 1 and len(lines) == 1 and path.name in lines[0]
    assert_entries(loaded.replay, 5)
    damage(tmp_path / "replay" / saves.files()[0])
    with pytest.raises(CheckpointError, match="no checkpoint verifies .*it_00000001: 0000000000-"):
        load_newest(tmp_path)


def test_damaged_segment_is_written_anew(tmp_path):
    saves = Saves(tmp_path)
    saves.save(1, 5)
    saves.save(2, 3)
    damage(tmp_path / "replay" / saves.files()[1])
    saves.segments = load_newest(tmp_path, report=lambda line: None).segments
    saves.save(3, 0)  # entries 5..8 are the same again, so the segment has the same name
    assert_entries(load_newest(tmp_path, report=silent).replay, 8)


def test_every_damaged_byte_of_the_manifest_is_detected(tmp_path):
    folder = Saves(tmp_path).save(3, 5)
    path, rng = folder / "manifest.json", random.Random(0)
    content = path.read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << rng.randrange(7)
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match="no checkpoint verifies"):
            load_newest(tmp_path)


def test_segment_goes_with_the_last_checkpoint_needing_it(tmp_path):
    saves = Saves(tmp_path, keep=2)
    for step in (1, 2, 3):
        saves.save(step, 2)
    assert len(saves.files()) == 3  # the newest needs them all
    other = Saves(tmp_path, keep=1)  # a run that begins anew at step 2 and abandons step 3
    other.store.append(torch.full((1, 2), -1.0))
    other.save(2, 2)
    assert len(other.files()) == 1
    assert_entries(load_newest(tmp_path, report=silent).replay, 3)


def test_forgotten_entries_leave_the_disk(tmp_path):
    saves = Saves(tmp_path, keep=2)
    saves.store = BoundedStore(most=10)
    for step, count in enumerate((6, 6, 3, 25, 4), start=1):
        saves.save(step, count)
        held = load_newest(tmp_path, report=silent).replay["number"].tolist()
        size = saves.store.replay_size()
        assert held[-10:] == list(range(max(0, size - 10), size)) and len(held) < 20
    assert saves.store.read == [(0, 6), (6, 12), (12, 15), (30, 40), (40, 44)]
    assert [(s.start, s.stop) for s in saves.segments] == [(30, 40), (40, 44)]
    assert len(saves.files()) == 2


def test_segments_are_on_the_disk_before_the_manifest(tmp_path, monkeypatch):
    saves, flushed = Saves(tmp_path), []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(handle) or fsync(handle))
    write = checkpoint._write

    def look(directory, step, files, keep):
        listed = json.loads(files["manifest.json"])["replay"]
        assert len(flushed) >= 2 and [s["name"] for s in listed] == saves.files()
        return write(directory, step, files, keep)

    monkeypatch.setattr(checkpoint, "_write", look)
    saves.save(1, 5)
    assert_entries(load_newest(tmp_path).replay, 5)


def test_full_disk_leaves_the_older_segments(tmp_path, monkeypatch):
    saves = Saves(tmp_path)
    saves.save(1, 5)

    def refuse(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(storage.os, "fsync", refuse)
        with pytest.raises(ResourceError, match="replay: No space left on device; older"):
            saves.save(2, 3)
    assert_entries(load_newest(tmp_path, report=silent).replay, 5)
    saves.save(2, 0)
    assert_entries(load_newest(tmp_path, report=silent).replay, 8)
    assert len(saves.files()) == 2  # nothing is left of the save that failed


def test_store_that_breaks_its_contract_is_refused(tmp_path):
    saves = Saves(tmp_path)
    saves.save(1, 5)
    saves.store.load_replay({})
    with pytest.raises(ValueError, match="the replay store has 2 entries, but 5 are saved"):
        saves.save(2, 2)
    saves.store.append(torch.zeros(4, 2))
    saves.store.read_replay = lambda start, stop: saves.store.entries
    with pytest.raises(ValueError, match=r"entries 5\.\.6 of number are 6 entries"):
        saves.save(2, 0)
    assert_entries(load_newest(tmp_path, report=silent).replay, 5)


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from metarl.runs.checkpoint import load_newest, save
from metarl.runs.storage import append_entries
from storing_learner import BoundedStore, Store

torch.set_num_threads(1)
folder, rng = Path(sys.argv[1]), random.Random(0)
save(folder, 0, {}, {})
kills, step = 0, 0
while kills < 10 or step <= 5:  # on a busy machine a child may be killed before its first save
    kills += 1
    loaded = load_newest(folder, report=sys.exit)
    assert loaded.step >= step, (loaded.step, step)
    step, segments, store = loaded.step, loaded.segments, Store()
    store.load_replay(loaded.replay)
    assert store.entries["number"].tolist() == list(range(100 * step))
    child = os.fork()
    if child == 0:
        while True:
            step += 1
            store.append(torch.full((100, 2), float(step)))
            segments = append_entries(folder / "replay", store, segments)
            save(folder, step, {}, {}, keep=2, segments=segments)
    time.sleep(rng.uniform(0.0, 0.15))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
print("reached", step)
"""


def test_kill_at_any_moment_leaves_all_entries_readable(tmp_path):
    command = [sys.executable, "-c", KILLS, str(tmp_path / "checkpoints")]
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests" / "helpers" / "learners")])
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) > 5
