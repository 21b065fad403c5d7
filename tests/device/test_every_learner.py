"""Every learner of the registry on a GPU; those of Stable-Baselines3 are in `test_sb3`.

A learner that has a case in `learner_cases.CASES`, as every one must, is covered. No learner
updates on the CPU by design: one whose update sends nothing to the GPU fails here.
"""

import pytest
import torch
from device_cases import DeviceCase
from learner_cases import CASES

from metarl.core.env import supports
from metarl.core.learner import HasReplay
from metarl.learners.registry import ALGORITHMS
from metarl.runs import checkpoint
from metarl.runs.storage import append_entries

TOLERANCE = 1e-8
"""Of the largest change that the update makes to a tensor (1e-12 on the simulated GPU).

Adam without our eps of 1e-5 divides by gradients as small as 1e-8, in which rounding is 1e-8.
"""

RATIO_ERROR = 1e-4
"""Bound on the error of log-probabilities that a GPU recomputes in float32."""


@pytest.fixture(params=CASES)
def name(request):
    return request.param


def count_phases(name):
    """Updates that differ: the first, of other scales, and those of teacher and student."""
    return 3 if "fine-tuned" in name else 2


def assert_same(one, other):
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for key, value in left.items():
            assert value.device.type == "cpu" and value.dtype == right[key].dtype, key
            assert torch.equal(value, right[key]), key


def assert_close(found, expected, before):
    """The states differ by little of the change since the state before."""
    for key, value in expected.items():
        assert found[key].device.type == "cpu" and found[key].dtype == value.dtype, key
        if not value.is_floating_point():
            assert torch.equal(found[key], value), key
        elif value.numel():
            is_replay = key not in before or before[key].shape != value.shape  # which grows
            change = 1.0 if is_replay else float((value - before[key]).abs().max())
            error = float((found[key] - value).abs().max())
            assert error <= TOLERANCE * max(change, 1e-4), (key, error, change)


def test_every_learner_is_checked_on_a_gpu():
    baselines = pytest.importorskip("baseline_bench", reason="Stable-Baselines3 is not installed")
    checked = {name.partition(",")[0] for name in CASES}
    checked |= {algo for algo, _ in baselines.CASES.values()}
    assert checked == set(ALGORITHMS)


def test_update_equals_the_cpu_update(name, gpu, all_double):
    reference, case = DeviceCase(name), DeviceCase(name, gpu.device)
    for number in range(count_phases(name)):
        before = reference.save()
        case.load(before)
        played, _ = reference.play(number)
        expected, found = reference.update(played), case.update(played)
        after = reference.save()
        for states in zip(case.save(), after, before, strict=True):
            assert_close(*states)
        assert any(not torch.equal(value, before[0][n]) for n, value in after[0].items())
        for key in expected.keys() - {"update/ratio_error"}:
            assert found[key] == pytest.approx(expected[key], rel=1e-6, abs=1e-8), key


def test_policy_that_acted_on_the_cpu_learns_on_the_gpu(name, gpu):
    case = DeviceCase(name, gpu.device)  # float32, as in training
    for number in range(count_phases(name)):
        metrics = case.train(number)
        assert metrics.get("update/ratio_error", 0.0) < RATIO_ERROR


def transfer(folder, number, one, other):
    """Saves one learner and loads the other; compares states and actions bit for bit."""
    segments = ()
    if supports(one.learner, HasReplay):
        segments = append_entries(folder / checkpoint.REPLAY, one.learner, ())
    checkpoint.save(folder, number, one.learner.state_dict(), {}, segments=segments)
    loaded = checkpoint.load_newest(folder)
    other.load((loaded.tensors, loaded.replay))
    assert_same(one.save(), other.save())
    played = [each.play(99)[0].rollouts[0] for each in (one, other)]
    assert torch.equal(played[0].action, played[1].action)


def test_checkpoint_moves_between_gpu_and_cpu(name, gpu, tmp_path):
    on_gpu, on_cpu = DeviceCase(name, gpu.device), DeviceCase(name)
    assert_same(on_gpu.save(), on_cpu.save())
    on_gpu.train(0)
    transfer(tmp_path / "gpu", 1, on_gpu, on_cpu)
    on_cpu.train(1)
    transfer(tmp_path / "cpu", 2, on_cpu, on_gpu)
    on_gpu.train(2)
    assert int(on_gpu.learner.state_dict()["updates"]) == 3


def test_full_gpu_leaves_the_learner_as_it_was(name, gpu):
    """The trainer makes one line of the error; see `test_out_of_memory`."""
    case = DeviceCase(name, gpu.device)
    for number in range(count_phases(name)):
        played, context = case.play(number)
        before = case.save()
        with gpu.full():
            assert_same(case.save(), before)
            with pytest.raises(torch.OutOfMemoryError):
                case.learner.update(context, played.rollouts, played.tasks)
            assert_same(case.save(), before)
        case.update(played)


def test_acting_does_not_involve_the_gpu(name, gpu, monkeypatch):
    case = DeviceCase(name, gpu.device)
    act, recorded = case.learner.act, []

    def counted(*arguments, **options):
        with gpu.traffic.record() as counts:
            result = act(*arguments, **options)
        recorded.append((counts.waits, counts.uploaded, counts.downloaded))
        return result

    monkeypatch.setattr(case.learner, "act", counted)
    for number in range(2):
        case.train(number)
    case.play(2)
    assert recorded and all(each == ([], 0, 0) for each in recorded)


def measure(name, gpu, horizon):
    """Returns the counts and the metrics of updates, without tries of a line search."""
    # PEARL takes one gradient step
    case = DeviceCase(name, gpu.device, horizon, update_ratio=1e-6)
    found = []
    for number in range(count_phases(name)):
        played, context = case.play(number)
        with gpu.traffic.record() as counts:
            metrics = case.learner.update(context, played.rollouts, played.tasks)
        found.append((counts, len(counts.waits) - metrics.get("update/line_search_tries", 0)))
    return found


def test_update_waits_are_those_of_its_results(name, gpu):
    """The host never waits to send something, nor longer for longer trials."""
    short, long = measure(name, gpu, 6), measure(name, gpu, 12)
    for (counts, number), (others, number_of_others) in zip(short, long, strict=True):
        assert number == number_of_others, (counts.waits, others.waits)
        assert not [wait for wait in counts.waits if "from the CPU" in wait], counts.waits
        assert counts.uploaded > 0, "the update does not run on the GPU"
