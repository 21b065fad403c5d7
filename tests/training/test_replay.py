"""Training of a learner with a replay store: saved in segments, resumed bit for bit."""

import dataclasses

import pytest
import torch
from commands import damage
from small_training import CONFIG, assert_same_runs, run, saved, trainer_in
from storing_learner import StoringLearner

from metarl.config.schema import TrainerConfig
from metarl.core.errors import CheckpointError
from metarl.learners.maml.maml import Maml
from metarl.runs.checkpoint import load_newest
from metarl.training.trainer import restore

OFTEN = dataclasses.replace(CONFIG, trainer=TrainerConfig(checkpoint_minutes=1e-6))


def train(folder, iterations, **options):
    config = dataclasses.replace(OFTEN, iterations=iterations)
    learner = StoringLearner()
    run(trainer_in(folder, config=config, learner=learner, **options))
    return learner


@pytest.fixture
def whole(tmp_path):
    train(tmp_path / "whole", 4)
    return tmp_path / "whole"


def assert_same_stores(one, other):
    left, right = saved(one).replay, saved(other).replay
    assert left.keys() == right.keys() == {"number", "obs"} and len(left["number"]) > 40
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_training_writes_each_entry_once(tmp_path):
    learner = train(tmp_path, 4)
    stops = [stop for _, stop in learner.read]
    assert learner.read == list(zip([0, *stops], stops, strict=False)) and len(stops) == 4
    assert stops[-1] == learner.replay_size() == len(saved(tmp_path).replay["number"])


def test_resumed_run_equals_the_whole_one_bit_for_bit(tmp_path, whole):
    train(tmp_path / "half", 2)
    resumed = train(tmp_path / "half", 4, resume=True)
    assert len(resumed.read) == 2  # the entries before the resume are not written again
    assert_same_runs(tmp_path / "half", whole)
    assert_same_stores(tmp_path / "half", whole)


@pytest.mark.filterwarnings("ignore:.*passed over it_00000003")
def test_resume_after_a_damaged_segment_repeats_its_iteration(tmp_path, whole):
    train(tmp_path / "half", 3)
    damage(max((tmp_path / "half" / "checkpoints" / "replay").iterdir()))
    assert load_newest(tmp_path / "half" / "checkpoints").step == 2
    train(tmp_path / "half", 4, resume=True)
    assert_same_runs(tmp_path / "half", whole)
    assert_same_stores(tmp_path / "half", whole)


def test_store_of_another_learner_is_refused(whole):
    maml = Maml(CONFIG.learner, 2, 2, seed=0)
    mixed = dataclasses.replace(saved(whole), tensors=maml.state_dict())
    with pytest.raises(CheckpointError, match="iteration 4 does not fit .*no replay store"):
        restore(maml, mixed)
    learner = StoringLearner()
    other = dataclasses.replace(saved(whole), replay={"other": torch.zeros(3)})
    with pytest.raises(CheckpointError, match="the entries have other names"):
        restore(learner, other)
    assert not learner.goal.any() and learner.replay_size() == 0
