import hashlib
import json
import os
import random
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metarl.core.errors import CheckpointError, ResourceError
from metarl.runs import checkpoint, storage
from metarl.runs.checkpoint import load_newest, save

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = ["manifest.json", "state.json", "tensors.safetensors"]


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "float32": torch.randn(3, 4, generator=generator),
        "float64": torch.randn(2, generator=generator, dtype=torch.float64),
        "int64": torch.tensor([[-(2**63), 2**63 - 1]]),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(0.1),
        "empty": torch.zeros(0, 5),
        "special": torch.tensor([float("nan"), float("inf"), -0.0]),
    }


def same_bytes(a, b):
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
    )


def silent(line):
    raise AssertionError(f"no checkpoint should be passed over: {line}")


# -------------------------------------------------------------------------------------- round trips


def test_tensors_come_back_with_dtype_shape_and_bits(tmp_path):
    saved = tensors()
    save(tmp_path, 1230, saved, {})
    loaded = load_newest(tmp_path, report=silent)
    assert loaded.step == 1230 and loaded.tensors.keys() == saved.keys()
    for name, tensor in saved.items():
        assert same_bytes(loaded.tensors[name], tensor), name


def test_shared_views_and_tensors_with_gradients_are_saved(tmp_path):
    base = torch.randn(4, requires_grad=True)
    save(tmp_path, 0, {"base": base, "row": base.expand(3, 4), "column": torch.ones(2, 3).T}, {})
    loaded = load_newest(tmp_path).tensors
    assert torch.equal(loaded["base"], base) and torch.equal(loaded["row"], base.expand(3, 4))
    assert loaded["column"].shape == (3, 2) and not loaded["base"].requires_grad


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc\u00e9\u20ac"), inner),
    max_leaves=8,
)


@settings(deadline=None, max_examples=30)
@given(state=st.dictionaries(st.text("abc"), JSON))
def test_numbers_and_texts_come_back_exactly(tmp_path_factory, state):
    folder = tmp_path_factory.getbasetemp() / "state"
    save(folder, 1, {}, state, keep=1)
    loaded = load_newest(folder).state
    assert loaded == state
    assert repr(loaded) == repr(state)  # distinguishes 1 from 1.0, and 0.0 from -0.0


@pytest.mark.parametrize(
    ("state", "entry"),
    [
        ({"a": {"b": float("nan")}}, r"state\['a'\]\['b'\] = nan is not finite"),
        ({"a": [1, float("-inf")]}, r"state\['a'\]\[1\] = -inf is not finite"),
        ({"a": (1, 2)}, r"state\['a'\] is a tuple"),
        ({"a": torch.tensor(1.0)}, r"state\['a'\] is a Tensor"),
        ({1: 2}, "state has the key 1"),
    ],
)
def test_state_that_json_would_change_is_refused(tmp_path, state, entry):
    with pytest.raises(ValueError, match=entry):
        save(tmp_path / "checkpoints", 1, {}, state)
    assert not (tmp_path / "checkpoints").exists()


def test_manifest_holds_sha256_and_size_of_each_file(tmp_path):
    folder = save(tmp_path, 7, tensors(), {"seconds": 1.5})
    assert folder.name == "it_00000007" and sorted(os.listdir(folder)) == FILES
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    for name in FILES[1:]:
        content = (folder / name).read_bytes()
        assert listed[name] == {
            "sha256": hashlib.sha256(content).hexdigest(),
            "size": len(content),
        }


# -------------------------------------------------------------------------------------------- order


def test_newest_are_kept_and_the_newest_is_loaded(tmp_path):
    for step in (1, 2, 10, 9999, 123456789):
        save(tmp_path, step, {}, {"step": step}, keep=3)
    assert sorted(os.listdir(tmp_path)) == ["it_00000010", "it_00009999", "it_123456789"]
    assert load_newest(tmp_path).state == {"step": 123456789}


def test_second_save_of_a_step_replaces_the_first(tmp_path):
    for value in (1, 2, 3):
        save(tmp_path, 5, {}, {"value": value})
        assert load_newest(tmp_path, report=silent).state == {"value": value}
        assert len(os.listdir(tmp_path)) == 1


def test_resume_from_an_older_one_removes_newer_ones(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, {}, {})
    (tmp_path / "it_00000003" / "state.json").write_text("{}")
    save(tmp_path, 2, {}, {"again": True}, keep=1)
    assert load_newest(tmp_path, report=silent).state == {"again": True}
    assert len(os.listdir(tmp_path)) == 1


def test_leftovers_of_a_killed_save_are_removed(tmp_path):
    save(tmp_path, 1, {}, {})
    leftover = tmp_path / ".saving-it_00000002"
    leftover.mkdir()
    (leftover / "state.json").write_text("{")
    assert load_newest(tmp_path, report=silent).step == 1
    save(tmp_path, 2, {}, {})
    assert sorted(os.listdir(tmp_path)) == ["it_00000001", "it_00000002"]


def test_full_disk_leaves_the_older_checkpoints(tmp_path, monkeypatch):
    save(tmp_path, 1, {}, {})

    def no_space(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "fsync", no_space)
        with pytest.raises(ResourceError, match="No space left on device; older"):
            save(tmp_path, 2, {}, {})
    assert load_newest(tmp_path, report=silent).step == 1
    save(tmp_path, 2, {}, {})
    assert load_newest(tmp_path, report=silent).step == 2


# ------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("name", FILES)
def test_every_damaged_byte_is_detected(tmp_path, name):
    folder = save(tmp_path, 3, tensors(), {"seconds": 1.5, "name": "x"})
    content = (folder / name).read_bytes()
    rng = random.Random(0)
    for position in sorted(rng.sample(range(len(content)), min(len(content), 250))):
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.randrange(8)
        (folder / name).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=f"no checkpoint verifies .*{folder.name}: "):
            load_newest(tmp_path)
    (folder / name).write_bytes(content)
    assert load_newest(tmp_path, report=silent).step == 3


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["truncated", "empty", "longer", "missing"])
def test_damaged_newest_falls_back_with_a_message(tmp_path, name, harm):
    save(tmp_path, 1, tensors(1), {"step": 1})
    path = save(tmp_path, 2, tensors(2), {"step": 2}) / name
    content = path.read_bytes()
    path.write_bytes({"truncated": content[:-2], "longer": content + b"\n"}.get(harm, b""))
    if harm == "missing":
        path.unlink()
    lines = []
    loaded = load_newest(tmp_path, report=lines.append)
    assert loaded.step == 1 and same_bytes(loaded.tensors["float32"], tensors(1)["float32"])
    assert len(lines) == 1 and "\n" not in lines[0]
    assert "passed over it_00000002" in lines[0] and "it_00000001" in lines[0] and name in lines[0]


def test_fallback_without_a_reporter_is_a_warning(tmp_path):
    save(tmp_path, 1, {}, {})
    (save(tmp_path, 2, {}, {}) / "manifest.json").write_text("")
    with pytest.warns(UserWarning, match="passed over it_00000002"):
        assert load_newest(tmp_path).step == 1


def test_renamed_checkpoint_is_not_trusted(tmp_path):
    save(tmp_path, 1, {}, {}).rename(tmp_path / "it_00000009")
    with pytest.raises(CheckpointError, match="manifest.json is not of this checkpoint"):
        load_newest(tmp_path)


def link_to_nothing(newest):
    shutil.rmtree(newest)
    newest.symlink_to("nowhere")
    return f"{newest.name}, which is a link to nothing"


def replace_by_a_file(newest):
    shutil.rmtree(newest)
    newest.touch()
    return f"{newest.name}, which is no folder"


def rename_to(name):
    def rename(newest):
        newest.rename(newest.with_name(name))
        return f"{name}, which is that of iteration 3 and was renamed"

    return rename


@pytest.mark.parametrize(
    "hide",
    [link_to_nothing, replace_by_a_file, *map(rename_to, ["it_00000003.bak", "it_00000001_7"])],
)
def test_checkpoint_that_is_hidden_is_reported(hide, tmp_path):
    for step in (1, 2, 3):
        newest = save(tmp_path, step, tensors(step), {"value": step})
    fault, lines = hide(newest), []
    assert load_newest(tmp_path, report=lines.append).step == 2
    assert lines == [f"{tmp_path}: passed over {fault}; going on from it_00000002"]
    save(tmp_path, 3, tensors(3), {"value": 3})  # the abandoned name does not block the next save
    assert load_newest(tmp_path, report=silent).state == {"value": 3}


def test_only_hidden_checkpoint_is_named(tmp_path):
    link_to_nothing(save(tmp_path, 1, {}, {}))
    with pytest.raises(
        CheckpointError, match=r"\(it_00000001, which is a link to nothing\); restore it"
    ):
        load_newest(tmp_path)


def test_older_copies_and_leftovers_are_not_reported(tmp_path):
    shutil.copytree(save(tmp_path, 1, {}, {}), tmp_path / "it_00000001.bak")
    shutil.copytree(save(tmp_path, 9, {}, {}), tmp_path / ".saving-it_00000010")
    (tmp_path / "notes").touch()
    assert load_newest(tmp_path, report=silent).step == 9


def test_linked_checkpoint_blocks_no_later_save(tmp_path):
    """The user moved a checkpoint to another disk, and left a link in its place."""
    folder, away = tmp_path / "checkpoints", tmp_path / "away"
    save(folder, 1, tensors(), {}).rename(away)
    (folder / "it_00000001").symlink_to(away)
    assert load_newest(folder, report=silent).step == 1
    for step in (2, 3):
        save(folder, step, tensors(), {}, keep=1)
    assert [path.name for path in folder.iterdir()] == ["it_00000003"]
    assert {path.name for path in away.iterdir()} == set(FILES)


def test_foreign_folder_beside_segments_blocks_no_save(tmp_path):
    (tmp_path / "replay" / "mine").mkdir(parents=True)
    save(tmp_path, 1, {}, {})
    assert load_newest(tmp_path, report=silent).step == 1


def test_other_format_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_FORMAT", 2)
    save(tmp_path, 1, {}, {})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="has format 2, not 1"):
        load_newest(tmp_path)


def test_unreadable_header_is_damage_despite_its_sum(tmp_path, monkeypatch):
    bad = struct.pack("<Q", 2**60) + b"{}"
    monkeypatch.setattr(storage.safetensors.torch, "save", lambda tensors: bad)
    save(tmp_path, 1, {}, {})
    with pytest.raises(CheckpointError, match="tensors.safetensors cannot be read"):
        load_newest(tmp_path)


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, Path.touch])
def test_folder_without_checkpoints_has_exit_code_5(tmp_path, make):
    folder = tmp_path / "checkpoints"
    make(folder)
    with pytest.raises(CheckpointError, match=f"{folder}: (no folder|holds no)") as caught:
        load_newest(folder)
    assert caught.value.exit_code == 5 and "\n" not in str(caught.value)


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from metarl.runs.checkpoint import load_newest, save

torch.set_num_threads(1)
folder, rng, step = Path(sys.argv[1]), random.Random(0), 0
save(folder, 0, {"x": torch.zeros(50_000)}, {"value": 0})
kills = 0
while kills < 12 or step <= 5:  # on a busy machine a child may be killed before its first save
    kills += 1
    child = os.fork()
    if child == 0:
        while True:
            step += 1
            save(folder, step, {"x": torch.full((50_000,), float(step))}, {"value": step}, keep=2)
    time.sleep(rng.uniform(0.0, 0.15))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    passed_over = []
    loaded = load_newest(folder, report=passed_over.append)
    assert not passed_over, passed_over
    assert loaded.step >= step and loaded.state == {"value": loaded.step}
    assert torch.equal(loaded.tensors["x"], torch.full((50_000,), float(loaded.step)))
    step = loaded.step
print("reached", step)
"""


def test_kill_during_a_save_leaves_the_newest_readable(tmp_path):
    command = [sys.executable, "-c", KILLS, str(tmp_path / "checkpoints")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) > 5


def test_checkpoint_that_is_not_finite_is_passed_over_on_request(tmp_path):
    checkpoint.save(tmp_path, 1, {"a": torch.zeros(2), "log_std": torch.zeros(2)}, {})
    bad = torch.tensor([0.0, float("-inf")])
    newest = checkpoint.save(tmp_path, 2, {"a": torch.zeros(2), "log_std": bad}, {})
    lines = []
    assert checkpoint.load_newest(tmp_path, report=lines.append).step == 2 and not lines
    found = checkpoint.load_newest(tmp_path, report=lines.append, needs_finite=True)
    assert found.step == 1 and len(lines) == 1
    assert f"passed over {newest.name}: 'log_std' is not finite; going on from it_0" in lines[0]
