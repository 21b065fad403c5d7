"""Run folders that are moved or removed while they are trained."""

import dataclasses
import os
import shlex
import shutil

import pytest
from small_training import CONFIG, records, run, saved, trainer_in
from storing_learner import StoringLearner

from metarl.config.schema import TrainerConfig, from_yaml, to_yaml
from metarl.core.errors import ResourceError
from metarl.experiment import resume_hint_on_failure
from metarl.trained_policy import TrainedPolicy
from metarl.training.place import FolderLost, Place

OFTEN = dataclasses.replace(CONFIG, trainer=TrainerConfig(checkpoint_minutes=1e-6))


def train_and(happen, folder, **options):
    """Trains, and lets something happen to the folder after the second record."""
    trainer = trainer_in(folder, config=OFTEN, **options)
    write = trainer.log.write

    def write_and_happen(record):
        write(record)
        if record["iteration"] == 2:
            happen()

    trainer.log.write = write_and_happen
    with pytest.raises(FolderLost) as caught:
        run(trainer)
    return str(caught.value)


def list_files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_moved_folder_gets_the_state_and_the_hint(tmp_path):
    run_dir, moved = tmp_path / "run", tmp_path / "my runs" / "old"
    moved.parent.mkdir()
    text = train_and(lambda: run_dir.rename(moved), run_dir)
    assert text.startswith(f"{run_dir} was moved while it was trained; the state is saved in")
    assert text.endswith(f"; resume with: metarl train --resume {shlex.quote(str(moved))}")
    assert saved(moved).step == len(records(moved)) == 2 and not run_dir.exists()
    run(trainer_in(moved, config=OFTEN, resume=True))
    assert saved(moved).step == 4


def test_moved_parent_is_followed(tmp_path):
    run_dir = tmp_path / "runs" / "run"
    run_dir.parent.mkdir()
    train_and(lambda: run_dir.parent.rename(tmp_path / "other"), run_dir)
    assert saved(tmp_path / "other" / "run").step == 2


def test_run_at_the_old_path_is_not_touched(tmp_path):
    run_dir, moved, before = tmp_path / "run", tmp_path / "moved", []

    def replace():
        run_dir.rename(moved)
        run(trainer_in(run_dir, config=OFTEN))
        before.extend(list_files(run_dir))

    train_and(replace, run_dir)
    assert list_files(run_dir) == before and saved(run_dir).step == 4
    assert saved(moved).step == 2


@pytest.mark.parametrize("is_taken", [False, True])
def test_removed_folder_leaves_settings_and_state(is_taken, tmp_path):
    run_dir = tmp_path / "run"
    kept = tmp_path / "run-2" if is_taken else run_dir

    def remove():
        shutil.rmtree(run_dir)
        if is_taken:
            run_dir.mkdir()

    text = train_and(remove, run_dir, learner=StoringLearner())
    assert f"{run_dir} was removed while it was trained; settings and state" in text
    assert text.endswith(f"metarl train --resume {kept}")
    assert to_yaml(from_yaml(kept / "config.yaml")) == to_yaml(OFTEN)
    assert saved(kept).step == 2 and len(saved(kept).replay["number"]) > 40
    assert not is_taken or not list_files(run_dir)


def test_refused_record_of_a_moved_folder_is_no_full_disk(tmp_path):
    run_dir, moved = tmp_path / "run", tmp_path / "moved"

    def refuse():
        run_dir.rename(moved)
        raise ResourceError("events: No such file or directory")

    text = train_and(refuse, run_dir)
    assert "was moved" in text and saved(moved).step == 2


def test_error_of_a_lost_folder_keeps_its_own_hint(tmp_path):
    policy = TrainedPolicy(tmp_path, CONFIG, None)
    with pytest.raises(FolderLost, match="^lost$"), resume_hint_on_failure(policy):
        raise FolderLost("lost")


def test_place_is_closed_and_then_never_lost(tmp_path):
    count = len(os.listdir("/proc/self/fd"))
    (tmp_path / "run").mkdir()
    with Place(tmp_path / "run") as place:
        (tmp_path / "run").rename(tmp_path / "moved")
        assert place.is_lost()
    assert not place.is_lost() and len(os.listdir("/proc/self/fd")) == count
