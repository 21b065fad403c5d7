"""Linear probes against a brute-force ridge regression, and scores against their definitions."""

import numpy as np
import pytest

from metarl.core.tasks import Variable
from metarl.evaluation import probe
from metarl.evaluation.probe import STRENGTHS, choose_folds, encode_tasks, predict_held_out

KINDS = Variable("kind", "1", 0.0, 2.0, labels=("ice", "sand", "mud"))
SPEED = Variable("speed", "m/s", 0.0, 3.0)
ANGLE = Variable("angle", "rad", 0.0, 2.0 * np.pi)
SIGN = Variable("sign", "1", -1.0, 1.0)
MASS = Variable("mass", "kg", 1.0, 2.0)


def draw_tasks(rng, num_tasks):
    """Tasks of kind, speed, angle, sign and a mass that is always the same."""
    return np.stack(
        [
            rng.integers(0, 3, num_tasks),
            rng.uniform(0.0, 3.0, num_tasks),
            rng.uniform(0.0, 2.0 * np.pi, num_tasks),
            rng.choice([-1.0, 1.0], num_tasks),
            np.full(num_tasks, 1.5),
        ],
        axis=1,
    )


def make_targets(seed=0, num_tasks=60):
    tasks = draw_tasks(np.random.default_rng(seed), num_tasks)
    return encode_tasks((KINDS, SPEED, ANGLE, SIGN, MASS), tasks), tasks


def test_task_numbers_are_encoded_by_their_declaration():
    targets, tasks = make_targets()
    assert [(t.name, t.kind) for t in targets] == [
        ("kind", "category"),
        ("speed", "number"),
        ("angle", "angle"),
        ("sign", "category"),
    ]
    kind, speed, angle, sign = targets
    assert kind.labels == ("ice", "sand", "mud") and sign.labels == ("-1", "1")
    assert (kind.columns.argmax(axis=1) == tasks[:, 0]).all() and (kind.columns.sum(1) == 1).all()
    assert kind.chance == max(np.bincount(tasks[:, 0].astype(int))) / 60 and speed.chance == 0.0
    assert (speed.columns[:, 0] == tasks[:, 1]).all()
    np.testing.assert_allclose(np.arctan2(*angle.columns.T[::-1]) % (2 * np.pi), tasks[:, 2])


def test_absent_kinds_are_left_out():
    (target,) = encode_tasks((KINDS,), np.array([[2.0], [0.0], [2.0]]))
    assert target.labels == ("ice", "mud") and target.columns.tolist() == [[0, 1], [1, 0], [0, 1]]


def test_folds_have_equally_many_of_each_category():
    targets, tasks = make_targets(num_tasks=90)
    folds = choose_folds(targets, np.random.default_rng(1))
    assert np.bincount(folds).tolist() == [18] * 5
    for kind in range(3):
        counts = np.bincount(folds[tasks[:, 0] == kind], minlength=5)
        assert np.ptp(counts) <= 2  # one for each value of the sign within the kind


def ridge(x, y, strength):
    """The ridge regression of y (m, C) on x (m, F) by the normal equations; returns a function."""
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    scaled = (x - mean) / deviation
    matrix = scaled.T @ scaled / len(x) + strength * np.eye(x.shape[1])
    weights = np.linalg.solve(matrix, scaled.T @ (y - y.mean(axis=0)) / len(x))
    return lambda rows: (rows - mean) / deviation @ weights + y.mean(axis=0)


def predict_slowly(features, columns, folds):
    """Predictions of one group of columns by nested cross-validation, with a fit at a time."""
    trials, low, high = features.shape[1], columns.min(axis=0), columns.max(axis=0)

    def fit_and_predict(fitted, predicted, strength):
        x = features[fitted].reshape(-1, features.shape[2])
        function = ridge(x, np.repeat(columns[fitted], trials, axis=0), strength)
        return np.clip(function(features[predicted]), low, high)

    result = np.empty((*features.shape[:2], columns.shape[1]))
    for fold in range(5):
        others = [other for other in range(5) if other != fold]
        errors = np.zeros(len(STRENGTHS))
        for inner in others:
            fitted = (folds != fold) & (folds != inner)
            for i, strength in enumerate(STRENGTHS):
                found = fit_and_predict(fitted, folds == inner, strength)
                errors[i] += np.square(found - columns[folds == inner][:, None]).sum()
        best = STRENGTHS[errors.argmin()]
        result[folds == fold] = fit_and_predict(folds != fold, folds == fold, best)
    return result


@pytest.mark.parametrize("noise", [0.3, 3.0])
def test_predictions_equal_a_nested_cross_validation(noise):
    targets, tasks = make_targets()
    rng = np.random.default_rng(2)
    features = 5.0 + noise * rng.normal(size=(60, 3, 8))
    features[:, :, 0] += 1e3 * tasks[:, None, 1]
    features[:, :, 1:3] += targets[2].columns[:, None]
    folds = choose_folds(targets, rng)
    columns = np.concatenate([target.columns for target in targets], axis=1)
    groups = np.repeat(range(4), [target.columns.shape[1] for target in targets])
    found = predict_held_out(features, columns, groups, folds)
    for group in range(4):
        own = groups == group
        expected = predict_slowly(features, columns[:, own], folds)
        np.testing.assert_allclose(found[:, :, own], expected, atol=1e-8)


def test_prediction_of_a_task_does_not_depend_on_its_numbers():
    targets, tasks = make_targets()
    rng = np.random.default_rng(3)
    features, folds = rng.normal(size=(60, 2, 5)), choose_folds(targets, rng)
    columns, groups = tasks[:, 1:2].copy(), np.zeros(1, dtype=int)
    before = predict_held_out(features, columns, groups, folds)
    own = np.flatnonzero(folds == 2)
    columns[own] = columns[own[::-1]]
    after = predict_held_out(features, columns, groups, folds)
    np.testing.assert_array_equal(before[own], after[own])
    assert not np.allclose(before, after)


def test_constant_features_give_the_mean():
    features, columns = np.full((20, 2, 3), 7.0), np.arange(20.0)[:, None]
    folds = np.arange(20) % 5
    found = predict_held_out(features, columns, np.zeros(1, dtype=int), folds)
    for fold in range(5):
        np.testing.assert_allclose(found[folds == fold], columns[folds != fold].mean())


def test_scores_follow_their_definitions():
    kind, speed, angle, _ = make_targets(num_tasks=40)[0]
    rng = np.random.default_rng(4)
    resamples = probe.draw_resamples(40, seed=0)
    for target in (speed, angle):
        guess = target.columns[:, None] + 0.4 * rng.normal(size=(40, 2, target.columns.shape[1]))
        truth = np.repeat(target.columns[:, None], 2, axis=1)
        rest = np.square(guess - truth).sum()
        total = np.square(truth - truth.mean(axis=(0, 1))).sum()
        found = probe.score(target, guess, resamples)
        assert found.value == pytest.approx(1.0 - rest / total)
        assert found.low < found.value < found.high
    guess = rng.normal(size=(40, 2, 3))
    hits = guess.argmax(axis=2) == kind.columns.argmax(axis=1)[:, None]
    assert probe.score(kind, guess, resamples).value == hits.mean()


@pytest.mark.parametrize("unit", [1e-12, 1e-6, 1e9])
def test_score_does_not_depend_on_the_unit_of_a_number(unit):
    rng = np.random.default_rng(0)
    columns = rng.uniform(0.0, 1.0, (30, 1))
    predictions = columns[:, None] + rng.normal(0.0, 0.1, (30, 2, 1))
    resamples = probe.draw_resamples(30, 0)
    found = [
        probe.score(probe.Target("x", "m", "number", u * columns), u * predictions, resamples)
        for u in (1.0, unit)
    ]
    assert 0.0 < found[0].low < found[0].value < found[0].high < 1.0
    assert vars(found[1]) == pytest.approx(vars(found[0]), rel=1e-9)


def test_interval_covers_the_score_of_fresh_tasks():
    variable, covered = (SPEED,), 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        (target,) = encode_tasks(variable, rng.uniform(0.0, 3.0, (80, 1)))
        guess = target.columns[:, None] + rng.normal(size=(80, 1, 1)) * 0.5
        found = probe.score(target, guess, probe.draw_resamples(80, seed))
        covered += found.low < 1.0 - 0.25 / 0.75 < found.high  # the variance of U(0, 3) is 3/4
    assert 88 <= covered <= 99


def test_exchanged_tasks_score_at_chance():
    targets, tasks = make_targets(num_tasks=100)
    rng = np.random.default_rng(5)
    features = rng.normal(size=(100, 2, 10))
    features[:, :, 0] = tasks[:, None, 1]
    features[:, :, 1:4] = targets[0].columns[:, None]
    folds, resamples = choose_folds(targets, rng), probe.draw_resamples(100, 0)
    orders = [probe.exchange_tasks(folds, np.random.default_rng(i)) for i in range(20)]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert all((folds[order] == folds).all() for order in orders)
    scores, exchanged = probe.probe(features, targets, folds, resamples, orders)
    assert scores[0].value == 1.0 and scores[1].value > 0.999
    assert exchanged.shape == (20, 4)
    assert abs(exchanged[:, 0].mean() - targets[0].chance) < 0.08
    assert -0.1 < exchanged[:, 1].mean() < 0.03 and exchanged[:, 1].max() < 0.2
