"""The tasks: their distributions, held-out digits, losses and scores."""

import numpy as np
import pytest
import torch
from fewshot_tasks import FAKE_SKLEARN
from torch.nn import functional

from metarl.core.errors import ConfigError
from metarl.fewshot import digits
from metarl.fewshot.registry import make_problem
from metarl.fewshot.sinusoid import Sinusoid
from metarl.fewshot.tasks import accuracy, cross_entropy, squared_error


def test_sinusoids_have_the_ranges_of_the_paper():
    tasks = Sinusoid(50).sample(np.random.default_rng(0), 2000)
    assert tasks.support_x.shape == tasks.query_x.shape == (2000, 50, 1)
    x, y = (v.double().numpy()[..., 0] for v in (tasks.support_x, tasks.support_y))
    assert -5.0 <= x.min() < -4.99 and 4.99 < x.max() <= 5.0
    # y = a sin(x - p) = (a cos p) sin x - (a sin p) cos x is linear in two numbers
    for i in range(0, 2000, 100):
        basis = np.stack([np.sin(x[i]), -np.cos(x[i])], axis=1)
        (sine, cosine), *_ = np.linalg.lstsq(basis, y[i])
        assert np.allclose(basis @ [sine, cosine], y[i], atol=1e-5)
        assert 0.1 <= np.hypot(sine, cosine) <= 5.0 and cosine >= -1e-5
    variance = (y**2).mean()  # E[a^2] / 2 * (1 - E[cos 2(x - p)]), the last 0
    assert np.isclose(variance, (5.0**3 - 0.1**3) / 3 / 4.9 / 2, rtol=0.05)


def test_test_tasks_of_sinusoids_have_more_queries():
    assert Sinusoid(5).sample(np.random.default_rng(0), 2, is_test=True).query_x.shape[1] == 100


@pytest.fixture
def problem(monkeypatch):
    monkeypatch.setattr(digits, "require_package", lambda *names: FAKE_SKLEARN)
    return make_problem("digits", 2, 3, seed=0)


def test_test_digits_are_never_seen_in_training(problem):
    assert len(problem.test_digits) == 4
    assert sorted(problem.train_digits + problem.test_digits) == list(range(10))
    for is_test, allowed in ((False, problem.train_digits), (True, problem.test_digits)):
        tasks = problem.sample(np.random.default_rng(1), 40, is_test=is_test)
        seen = set((tasks.support_x[..., 0] * 16).round().int().flatten().tolist())
        assert seen == set(allowed)


def test_images_of_a_task_have_one_label_each(problem):
    tasks = problem.sample(np.random.default_rng(1), 10)
    assert tasks.support_y.sum(dim=1).eq(2).all() and tasks.query_y.sum(dim=1).eq(5).all()
    x = torch.cat([tasks.support_x, tasks.query_x], dim=1)
    way = torch.cat([tasks.support_y, tasks.query_y], dim=1).argmax(dim=2)
    for i in range(10):
        pairs = set(zip((x[i, :, 0] * 16).tolist(), way[i].tolist(), strict=True))
        assert len(pairs) == 3  # one digit for each class
        assert len(x[i].unique(dim=0)) == x.shape[1]  # no query is in the support


def test_seed_draws_the_split(monkeypatch):
    monkeypatch.setattr(digits, "require_package", lambda *names: FAKE_SKLEARN)
    splits = {frozenset(make_problem("digits", 1, 3, seed).test_digits) for seed in range(6)}
    assert len(splits) > 2


@pytest.mark.parametrize(
    ("task", "shots", "ways", "message"),
    [
        ("digits", 1, 5, r"ways = 5: must be from 2 to 4, the digits that are held out"),
        ("sinusoid", 0, 3, r"shots = 0: must be from 1 to 100"),
        ("sinusoids", 1, 3, r"no few-shot task 'sinusoids'; did you mean sinusoid\?"),
    ],
)
def test_unusable_task_is_refused(task, shots, ways, message):
    with pytest.raises(ConfigError, match=message):
        make_problem(task, shots, ways, 0)


def test_losses_are_those_of_torch():
    rng = torch.Generator().manual_seed(0)
    output, number = torch.randn(2, 5, 3, generator=rng), torch.randn(2, 5, 3, generator=rng)
    way = torch.tensor([[0, 1, 2, 0, 1], [2, 2, 1, 0, 0]])
    one_hot = functional.one_hot(way, 3).float()
    for i in range(2):
        expected = functional.cross_entropy(output[i], way[i])
        assert torch.allclose(cross_entropy(output, one_hot)[i], expected)
        assert torch.allclose(
            squared_error(output, number)[i], functional.mse_loss(output[i], number[i])
        )
        correct = (output[i].argmax(dim=1) == way[i]).float().mean()
        assert torch.allclose(accuracy(output, one_hot)[i], correct)
