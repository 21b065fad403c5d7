"""Means, interquartile means and intervals against closed forms, scipy and repeated experiments."""

import math

import numpy as np
import pytest
from scipy import stats

from metarl.evaluation import statistics
from metarl.evaluation.statistics import (
    bootstrap,
    count_experience,
    estimate,
    interquartile_mean,
    over_tasks,
    per_task,
    share_made_worse,
    split_into_strata,
)


def estimate_whole(values):
    """Returns the estimate of one stratum."""
    return estimate([values], 0)


# --- one sample: the mean ------------------------------------------------------------------------


def test_mean_and_standard_error_are_those_worked_by_hand():
    # mean 5, squares 9 + 1 + 1 + 9 = 20, sample variance 20 / 3, standard error sqrt(20 / 12)
    found = estimate_whole(np.array([2.0, 4.0, 6.0, 8.0]))
    assert found.mean == 5.0
    assert found.stderr == pytest.approx(math.sqrt(20.0 / 12.0), rel=1e-14)


def test_interval_of_two_tasks_goes_from_one_to_the_other():
    # a resample has mean 0, 1/2, 1 with probability 1/4, 1/2, 1/4: the 2.5 % ends are 0 and 1
    found = estimate_whole(np.array([0.0, 1.0]))
    assert (found.low, found.high) == (0.0, 1.0)


def test_interval_of_four_tasks_ends_at_counted_quantiles():
    # the sum of a resample of {0, 0, 0, 1} is binomial(4, 1/4): P(0) = 32 %, P(4) = 0.4 % and
    # P(3 or 4) = 5.1 %, so that the upper 2.5 % begin at 3
    found = estimate_whole(np.array([0.0, 0.0, 0.0, 1.0]))
    assert (found.low, found.high) == (0.0, 0.75)


def test_interval_of_many_tasks_is_the_normal_approximation():
    values = np.random.default_rng(0).normal(10.0, 3.0, size=400)
    found = estimate_whole(values)
    half = 1.959964 * values.std() / 20.0
    assert found.low == pytest.approx(values.mean() - half, abs=0.03 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03 * half)


def test_interval_equals_percentiles_of_resampled_means():
    values = np.random.default_rng(0).exponential(size=12)
    found = estimate_whole(values)
    drawn = np.random.default_rng(1).choice(values, (100_000, 12)).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    # 10,000 resamples fix an end to about 1 % of the width
    assert found.low == pytest.approx(low, abs=0.03 * (high - low))
    assert found.high == pytest.approx(high, abs=0.03 * (high - low))


def test_equal_tasks_have_an_interval_of_no_width():
    found = estimate_whole(np.full(5, 3.25))
    assert (found.mean, found.stderr, found.low, found.high) == (3.25, 0.0, 3.25, 3.25)


def test_one_task_has_a_mean_and_no_interval():
    found = estimate_whole(np.array([7.0]))
    assert found.mean == 7.0
    assert math.isnan(found.stderr) and math.isnan(found.low) and math.isnan(found.high)


# --- interquartile mean --------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 20, 41])
def test_interquartile_mean_is_the_trimmed_mean_of_scipy(count):
    values = np.random.default_rng(count).normal(size=(3, count))
    expected = stats.trim_mean(values, 0.25, axis=1)
    np.testing.assert_allclose(interquartile_mean(values, axis=1), expected, rtol=1e-13)
    np.testing.assert_allclose(interquartile_mean(values.T, axis=0), expected, rtol=1e-13)


def test_one_bad_task_in_four_leaves_the_interquartile_mean():
    assert estimate_whole(np.array([1.0, 2.0, 3.0, -1e9])).iqm == 1.5
    assert estimate_whole(np.array([1.0, 2.0, 3.0, -1e3])).iqm == 1.5


def test_interquartile_interval_equals_resampled_percentiles():
    values = np.random.default_rng(0).exponential(size=12)
    found = estimate_whole(values)
    drawn = np.random.default_rng(1).choice(values, (100_000, 12))
    low, high = np.percentile(stats.trim_mean(drawn, 0.25, axis=1), [2.5, 97.5])
    assert found.iqm_low == pytest.approx(low, abs=0.03 * (high - low))
    assert found.iqm_high == pytest.approx(high, abs=0.03 * (high - low))


# --- strata --------------------------------------------------------------------------------------


def test_difference_between_strata_is_not_random():
    found = estimate([np.full(3, 10.0), np.full(6, 40.0)], 0)
    assert (found.mean, found.stderr, found.low, found.high) == (30.0, 0.0, 30.0, 30.0)


def test_standard_error_of_strata_is_that_worked_by_hand():
    # variances 2 and 8 of two numbers each: standard errors 1 and 2 of two means of weight 1/2
    found = estimate([np.array([0.0, 2.0]), np.array([10.0, 14.0])], 0)
    assert found.mean == 6.5
    assert found.stderr == pytest.approx(math.sqrt(0.25 * 1.0 + 0.25 * 4.0), rel=1e-14)


def test_each_stratum_is_resampled_within_itself():
    strata = [np.random.default_rng(i).exponential(size=size) for i, size in enumerate((6, 15))]
    rng = np.random.default_rng(1)
    drawn = np.concatenate([rng.choice(s, (100_000, len(s))) for s in strata], axis=1)
    for iqm, statistic in (
        (False, np.mean),
        (True, lambda x, axis: stats.trim_mean(x, 0.25, axis)),
    ):
        low, high = bootstrap(strata, np.random.default_rng(2), iqm=iqm)
        expected = np.percentile(statistic(drawn, axis=1), [2.5, 97.5])
        width = expected[1] - expected[0]
        np.testing.assert_allclose([low, high], expected, atol=0.03 * width)


def test_strata_of_one_number_are_resampled_as_one():
    values = np.array([1.0, 5.0, 6.0])
    assert estimate(list(values[:, None]), 0) == estimate_whole(values)


@pytest.mark.parametrize("iqm", [False, True])
def test_intervals_cover_the_true_mean_as_often_as_claimed(monkeypatch, iqm):
    monkeypatch.setattr(statistics, "RESAMPLES", 1_000)
    rng = np.random.default_rng(0)
    # three seeds of 20 tasks, each with a mean of its own; symmetric, so mean and IQM are equal
    strata = [mean + rng.normal(size=(1_500, 20)) for mean in (-1.0, 0.0, 1.0)]
    low, high = bootstrap(strata, rng, iqm=iqm)
    coverage = ((low <= 0.0) & (high >= 0.0)).mean()
    # the standard error of the coverage is 0.6 %; percentile intervals are slightly too narrow
    assert 0.91 <= coverage <= 0.97, coverage


def test_interval_without_strata_would_be_too_wide(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 1_000)
    rng = np.random.default_rng(0)
    strata = [mean + rng.normal(size=(500, 20)) for mean in (-3.0, 3.0)]
    low, high = bootstrap([np.concatenate(strata, axis=1)], rng)
    assert ((low <= 0.0) & (high >= 0.0)).mean() > 0.99


def test_tasks_that_all_occur_often_are_strata():
    parts, by_task = split_into_strata(np.array([[1.0], [-1.0]] * 5))
    assert by_task and [part.tolist() for part in parts] == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]
    parts, by_task = split_into_strata(np.array([[1.0]] * 9 + [[-1.0]] * 4))
    assert not by_task and [part.tolist() for part in parts] == [list(range(13))]


def test_tasks_of_random_frequencies_are_no_strata(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 200)
    rng, hits = np.random.default_rng(0), 0
    for _ in range(100):
        tasks = rng.choice([-1.0, 1.0], (20, 1))  # no Choice of metarl
        returns = 100.0 * tasks[:, 0] + rng.normal(0.0, 20.0, 20)
        low, high = over_tasks(tasks, returns[None], 0).returns["ci95"][0]
        hits += low <= 0.0 <= high
    assert hits > 85  # 31 with strata
    assert split_into_strata(np.array([[1.0]] * 7 + [[-1.0]] * 6))[1]
    assert not split_into_strata(np.array([[1.0]] * 8 + [[-1.0]] * 6))[1]


def test_tasks_that_differ_in_the_last_bit_are_distinct():
    tasks = np.array([[0.1], [np.nextafter(0.1, 1.0)]] * 3)
    assert not split_into_strata(tasks)[1] and split_into_strata(["door", {"open": 1}] * 5)[1]


# --- tasks and their episodes --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tasks", "strata", "text"),
    [
        (np.arange(10.0)[:, None], "none", "over tasks; 1 seed: "),
        (np.tile([[1.0], [-1.0]], (5, 1)), "tasks", "over the trials of each task; 1 seed: "),
        (np.ones((1, 1)), "none", "none of a single task; 1 seed: "),
    ],
)
def test_intervals_of_one_run_say_that_they_lack_other_trainings(tasks, strata, text):
    found = over_tasks(tasks, np.ones((2, len(tasks))), 0)
    assert found.strata == strata and found.returns["mean"] == [1.0, 1.0]
    assert found.intervals == f"{text}the spread between trainings is not in it"


def test_episodes_of_a_task_are_averaged_with_their_errors():
    returns = np.array([[[1.0, 3.0, 5.0, 99.0], [2.0, 2.0, 2.0, 2.0]]])
    found = per_task(returns, 0)
    assert found["per_task"] == [[27.0, 2.0]] and found["per_task_iqm"] == [[4.0, 2.0]]
    expected = np.std([1.0, 3.0, 5.0, 99.0], ddof=1) / 2.0
    assert found["per_task_stderr"] == [[pytest.approx(expected), 0.0]]
    (low, high), alike = found["per_task_ci95"][0]
    assert 1.0 <= low < 27.0 < high <= 99.0 and alike == [2.0, 2.0]


def test_one_episode_of_a_task_has_no_error():
    found = per_task(np.array([[[1.0], [2.0]]]), 0)
    assert found["per_task"] == [[1.0, 2.0]] and found["per_task_stderr"] == [[None, None]]
    assert found["per_task_ci95"] == [[[None, None], [None, None]]]


def test_tasks_made_worse_are_counted_task_by_task():
    worse = share_made_worse(np.array([[0.0, 10.0, 5.0], [1.0, 9.0, 5.0], [-1.0, 0.0, 4.0]]))
    assert worse == [0.0, 1.0 / 3.0, 1.0]


def test_experience_grows_by_the_steps_of_each_rollout():
    steps = [60.0, 40.0, 20.0]
    assert count_experience(steps, 10, pools=True) == {
        "episodes": [0, 10, 20],
        "env_steps": [0.0, 60.0, 100.0],
    }
    alone = count_experience(steps, 10, pools=False)
    assert alone["episodes"] == [0, 1, 2] and alone["env_steps"] == [0.0, 6.0, 10.0]


@pytest.mark.parametrize(("events", "count"), [(0, 20), (7, 20), (20, 20), (1, 1), (333, 1000)])
def test_share_interval_is_that_of_scipy(events, count):
    expected = stats.binomtest(events, count).proportion_ci(0.95, "wilson")
    found = statistics.share_interval(events / count, count)
    assert found == pytest.approx((expected.low, expected.high), abs=1e-12)
