"""Workers that come, go, are slow or unsuitable; with answers that are given by hand."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from metarl.core.errors import ResourceError
from metarl.sampling.cluster import pool as pools
from metarl.sampling.cluster.packing import Packed
from metarl.sampling.cluster.pool import Pool
from metarl.sampling.cluster.requests import Facts, Result, StoreTooSmall, WorkerLost

FACTS = Facts({"torch": "2.8"}, "hash", "cpu", "here")
ANSWER = Result(Packed(None, []), [])


class Desk:
    """Workers with a clock of their own: a call ends at its time with its answer."""

    def __init__(self, size=2, seconds=lambda worker, shard: 1.0, facts=lambda worker: FACTS):
        self.size, self.seconds, self.facts = size, seconds, facts
        self.clock, self.started, self.sent, self.ends = 0.0, 0, [], {}
        self.stopped = []

    def capacity(self):
        return self.size

    def start(self):
        self.started += 1
        return self.started - 1

    def _call(self, seconds, answer):
        call = object()
        self.ends[call] = self.clock + seconds, answer
        return call

    def greet(self, worker):
        return self._call(0.1, self.facts(worker))

    def send(self, worker, state, shard):
        self.sent.append((worker, shard))
        seconds = self.seconds(worker, shard)
        answer = ANSWER
        if isinstance(seconds, tuple):
            seconds, answer = seconds
        return self._call(seconds, answer)

    def wait(self, calls, seconds):
        first = min((self.ends[call][0] for call in calls), default=float("inf"))
        self.clock = min(max(first, self.clock), self.clock + seconds)
        return [call for call in calls if self.ends[call][0] <= self.clock]

    def result(self, call):
        answer = self.ends[call][1]
        if isinstance(answer, (WorkerLost, StoreTooSmall)):
            raise answer
        return answer

    def stop(self, worker):
        self.stopped.append(worker)


@pytest.fixture
def play(monkeypatch):
    """Runs shards, which are numbers here, and returns the desk, the pool and what was taken."""

    def run(desk, shards, wanted=0, pool=None):
        monkeypatch.setattr(pools, "time", SimpleNamespace(monotonic=lambda: desk.clock))
        lines, taken = [], []
        pool = pool or Pool(desk, FACTS, wanted, lines.append)
        pool.start()
        pool.run(shards, None, lambda index, result: taken.append(index))
        return pool, taken, lines

    return run


def test_every_shard_is_taken_once(play):
    desk = Desk(3)
    _, taken, _ = play(desk, range(7))
    assert sorted(taken) == list(range(7)) and len(desk.sent) == 7
    assert {worker for worker, _ in desk.sent} == {0, 1, 2}


def test_slow_shard_is_played_twice_and_the_first_answer_counts(play):
    desk = Desk(2, lambda worker, shard: 100.0 if (worker, shard) == (1, 1) else 2.0)
    pool, taken, lines = play(desk, range(4))
    assert sorted(taken) == [0, 1, 2, 3]
    assert [shard for _, shard in desk.sent].count(1) == 2
    assert desk.clock < 20.0 and "shard 2 of 4 is slow: played twice" in lines
    assert pool.take_counts()["workers/duplicated"] == 1.0
    pool.run(range(2), None, lambda index, result: taken.append(index))  # one is still busy
    assert len(taken) == 6 and desk.clock < 30.0


def test_lost_shard_goes_to_another_worker(play):
    desk = Desk(2, lambda worker, shard: (0.5, WorkerLost("gone")) if worker == 0 else 1.0)
    pool, taken, lines = play(desk, range(3))
    assert sorted(taken) == [0, 1, 2] and desk.stopped == [0]
    counts = pool.take_counts()
    assert counts["workers/lost"] == counts["workers/redone"] == 1.0
    assert lines == ["a worker is lost (gone); its tasks are played again"]


def test_cluster_may_grow_and_shrink(play):
    desk = Desk(1)
    pool, taken, _ = play(desk, range(2))
    desk.size = 3
    pool.run(range(6), None, lambda index, result: taken.append(index))
    assert pool.size == 3 and len(taken) == 8
    desk.size, desk.seconds = 1, lambda w, s: (0.5, WorkerLost("node")) if w != 1 else 1.0
    pool.run(range(3), None, lambda index, result: taken.append(index))
    assert pool.size == 1 and len(taken) == 11 and desk.started == 3


def test_process_of_a_group_gives_workers_to_the_others(play):
    """Where the cluster has shrunk: else another process may wait for one for ever."""
    desk = Desk(4)
    pool = Pool(desk, FACTS, group=SimpleNamespace(rank=0, size=2))
    pool, taken, _ = play(desk, range(4), pool=pool)
    assert pool.size == 2
    desk.size = 2
    pool.run(range(2), None, lambda index, result: taken.append(index))
    assert pool.size == 1 and len(taken) == 6 and len(desk.stopped) == 1


def test_first_failing_shard_is_named_whatever_the_order(play):
    desk = Desk(2, lambda worker, shard: (3.0 - shard, ValueError(f"shard {shard}")))
    with pytest.raises(ValueError, match="shard 0"):
        play(desk, range(2))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (replace(FACTS, versions={"torch": "2.9"}), "here has torch 2.9, and this process 2.8"),
        (replace(FACTS, env="changed"), "another model of the environment"),
    ],
)
def test_first_worker_of_another_version_is_refused(play, other, message):
    with pytest.raises(ResourceError, match=message):
        play(Desk(facts=lambda worker: other), range(2))


def test_later_worker_of_another_version_is_left_out(play):
    other = replace(FACTS, env="changed")
    desk = Desk(2, facts=lambda worker: FACTS if worker == 0 else other)
    pool, taken, lines = play(desk, range(3))
    assert len(taken) == 3 and pool.size == 1 and desk.started == 2
    assert lines == [
        "warning: a worker on here has another model of the environment; it is not used"
    ]


def test_workers_that_never_answer_end_the_wait(play):
    desk = Desk()
    desk.greet = lambda worker: desk._call(1e6, FACTS)
    with pytest.raises(ResourceError, match="no worker has answered for 540 s"):
        play(desk, range(1))
    desk = Desk(facts=lambda worker: WorkerLost("no module"))
    with pytest.raises(ResourceError, match="workers end when they are started: no module"):
        play(desk, range(1))


def test_too_small_store_is_named(play):
    desk = Desk(2, lambda worker, shard: (1.0, StoreTooSmall("give it more")))
    with pytest.raises(ResourceError, match="the object store of the cluster is too small; give"):
        play(desk, range(1))
