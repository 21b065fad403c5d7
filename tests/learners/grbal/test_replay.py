"""GrBAL's replay is bounded in memory and on the disk, and resumed bit for bit."""

import dataclasses

import pytest
import torch
from small_training import CONFIG, assert_same_runs, run, saved, trainer_in

from metarl.config.schema import TrainerConfig
from metarl.core.env import supports
from metarl.core.errors import CheckpointError
from metarl.core.learner import HasBoundedReplay
from metarl.core.rollout import Rollout
from metarl.learners.grbal.config import GrbalConfig
from metarl.learners.grbal.grbal import Grbal
from metarl.sampling.replay_buffer import NUMBER, ReplayBuffer
from metarl.training.trainer import restore

SMALL = GrbalConfig(
    hidden_sizes=(8,),
    past_steps=4,
    future_steps=4,
    gradient_steps=3,
    batch_size=16,
    replay_steps=1000,
    plan_steps=2,
    candidates=4,
)
HELD = SMALL.replay_steps + SMALL.past_steps
OFTEN = dataclasses.replace(CONFIG, trainer=TrainerConfig(checkpoint_minutes=1e-6))


def learner(config=SMALL, *, keeps_all=False):
    """Returns a learner; one that keeps all saves what versions without a bound saved."""
    own = Grbal(config, 2, 2, seed=0)
    if keeps_all:
        own._replay = ReplayBuffer(10**9, NUMBER)
    return own


def train(folder, iterations, *, keeps_all=False, **options):
    config = dataclasses.replace(OFTEN, iterations=iterations)
    own = learner(keeps_all=keeps_all)
    run(trainer_in(folder, config=config, learner=own, **options))
    return own


def rollout(seed, steps=40):
    """Random numbers (3, 2, steps)."""
    rng = torch.Generator().manual_seed(seed)
    obs = torch.randn(3, 2, steps + 1, 2, generator=rng)
    action = torch.randn(3, 2, steps, 2, generator=rng)
    zeros, no = torch.zeros(3, 2, steps), torch.zeros(3, 2, dtype=torch.bool)
    valid = torch.ones(3, 2, steps, dtype=torch.bool)
    return Rollout(obs[:, :, :-1], action, zeros, obs[:, :, 1:, 0], valid, no, no, obs[:, :, -1])


def update(own, *seeds):
    for seed in seeds:
        metrics = own.update(own.begin(3, 2, ()), [rollout(seed)], None)
    return metrics


def whole(own):
    """Returns the state and the entries, as a checkpoint has them."""
    return own.state_dict(), own.read_replay(own.replay_start(), own.replay_size())


def assert_same(one, other):
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)


def test_only_the_newest_transitions_stay():
    config = dataclasses.replace(SMALL, replay_steps=500, gradient_steps=1)
    bounded, unbounded = learner(config), learner(config, keeps_all=True)
    appended = 3 * 2 * 39
    for number in range(1, 21):
        assert update(bounded, number) == update(unbounded, number)  # the same places are drawn
        size = bounded.replay_size()
        assert size == appended * number == unbounded.replay_size()
        assert bounded.replay_start() == max(0, size - 504) and unbounded.replay_start() == 0
        assert len(bounded._replay.ring["place"]) < 2 * (504 + appended)
    kept = unbounded.read_replay(size - 504, size)
    assert_same(whole(bounded), (unbounded.state_dict(), kept))


def test_update_that_fails_leaves_state_and_replay(monkeypatch):
    own, other = learner(), learner()
    update(own, 0, 1, 2, 3, 4, 5)
    update(other, 0, 1, 2, 3, 4, 5)
    before = whole(own)
    assert own.replay_start() > 0
    for place in (
        "metarl.learners.grbal.grbal.segments",
        "metarl.learners.grbal.grbal.Grbal._refresh",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                update(own, 6)
        assert_same(whole(own), before)
    assert update(own, 7) == update(other, 7)
    assert_same(whole(own), whole(other))


def test_append_that_fails_leaves_the_size():
    own = learner()
    update(own, 0, 1, 2, 3, 4, 5)
    before, broken = whole(own), dataclasses.replace(rollout(6), action=torch.zeros(3, 2, 40, 5))
    with pytest.raises(ValueError, match="entries have 'action' of shape"):
        own.update(own.begin(3, 2, ()), [broken], None)
    assert own.replay_size() == 6 * 234
    assert_same(whole(own), before)


def test_state_of_an_earlier_update_sets_the_replay_back():
    own, other = learner(), learner()
    update(own, 0, 1, 2)
    middle = whole(own)
    update(own, 3)
    late = whole(own)
    own.load_state_dict(middle[0])
    assert_same(whole(own), middle)
    own.load_state_dict(late[0])  # forward again
    assert_same(whole(own), late)
    own.load_state_dict(middle[0])
    update(own, 5, 6)
    update(other, 0, 1, 2, 5, 6)
    assert_same(whole(own), whole(other))
    own.load_state_dict(middle[0])  # its oldest transitions are forgotten
    other.load_state_dict(middle[0])
    other.load_replay(middle[1])
    assert (own.replay_start(), own.replay_size()) == (5 * 234 - HELD, 3 * 234)
    assert_same(whole(other), middle)


def test_replay_of_another_learner_is_refused(tmp_path):
    train(tmp_path, 2)
    found, own = saved(tmp_path), learner()
    update(own, 0)
    before = whole(own)
    for name in found.replay:
        others = {n: v for n, v in found.replay.items() if n != name}
        for broken in (others, {**others, name: torch.zeros(len(found.replay[name]), 9)}):
            with pytest.raises(CheckpointError, match=f"the replay store.*{name}"):
                restore(own, dataclasses.replace(found, replay=broken))
            assert_same(whole(own), before)


# --- runs


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run of a version that kept all transitions; of about 800 in an iteration."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(folder, 6, keeps_all=True)
    return folder


CASES = [((), False), ((1,), False), ((3, 4, 5), False), ((2,), True), ((3, 5), True)]


@pytest.mark.parametrize(("stops", "is_old"), CASES)
def test_resumed_run_equals_the_undisturbed_one(stops, is_old, undisturbed, tmp_path):
    """Beyond the bound; an old run has segments from the first transition on."""
    folder = tmp_path / "run"
    for number, stop in enumerate((*stops, 6)):
        own = train(folder, stop, keeps_all=is_old and number == 0, resume=number > 0)
    assert supports(own, HasBoundedReplay)
    assert_same_runs(folder, undisturbed)
    size, kept = own.replay_size(), saved(undisturbed).replay
    assert len(kept["place"]) == size > 3 * HELD and own.replay_start() == size - HELD
    newest = {name: value[size - HELD :] for name, value in kept.items()}
    assert_same(whole(own), (saved(undisturbed).tensors, newest))


def test_checkpoints_are_bounded_on_the_disk(tmp_path):
    train(tmp_path, 6)
    files = sorted((tmp_path / "checkpoints" / "replay").iterdir())
    ranges = [[int(part) for part in path.name.split("-")[:2]] for path in files]
    largest = max(stop - start for start, stop in ranges)
    assert len(saved(tmp_path).replay["place"]) < HELD + largest
    # 3 checkpoints are kept; the oldest has the rest of a segment, the others one more each
    assert ranges[-1][1] - ranges[0][0] < HELD + 3 * largest
