import math

import numpy as np
import pytest
import torch

from metarl.functional.trust_region import (
    MARGIN,
    SearchResult,
    conjugate_gradient,
    dot,
    line_search,
    natural_step,
)

NAN, INF = math.nan, math.inf


def spd_matrix(size, seed=0):
    root = torch.from_numpy(np.random.default_rng(seed).normal(size=(size, size)))
    return root @ root.T + 0.1 * torch.eye(size, dtype=root.dtype)


def vector(size, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=size))


def test_dot_is_computed_in_double_precision():
    # float32 would lose the second term, because 1e8 + 1 = 1e8
    x = torch.tensor([1e4, 1.0, -1e4])
    assert dot(x, torch.tensor([1e4, 1.0, 1e4])) == 1.0


def test_conjugate_gradient_equals_a_direct_solve():
    matrix, target = spd_matrix(12), vector(12)
    found = conjugate_gradient(lambda v: matrix @ v, target, 40, tolerance=1e-24)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, target), rtol=1e-9, atol=1e-9)


def test_conjugate_gradient_needs_a_product_per_eigenvalue():
    diagonal = torch.tensor([1.0, 2.0, 2.0, 5.0, 5.0, 5.0], dtype=torch.float64)
    products = []

    def product(v):
        products.append(v)
        return diagonal * v

    found = conjugate_gradient(product, vector(6), 100, tolerance=1e-20)
    assert len(products) == 3
    torch.testing.assert_close(found, vector(6) / diagonal, rtol=1e-10, atol=0)


def test_conjugate_gradient_stops_after_its_iterations():
    matrix, products = spd_matrix(12), []

    def product(v):
        products.append(v)
        return matrix @ v

    conjugate_gradient(product, vector(12), 4)
    assert len(products) == 4


def test_one_iteration_is_a_steepest_descent_step():
    matrix, target = spd_matrix(5), vector(5)
    step = float(target @ target) / float(target @ matrix @ target)
    found = conjugate_gradient(lambda v: matrix @ v, target, 1)
    torch.testing.assert_close(found, step * target, rtol=1e-13, atol=0)


def test_conjugate_gradient_of_zero_is_zero():
    assert not conjugate_gradient(lambda v: v, torch.zeros(3), 10).any()


def test_conjugate_gradient_stops_finite_on_a_singular_matrix():
    # the range is the first axis, so the second component of the target cannot be reached
    diagonal = torch.tensor([2.0, 0.0], dtype=torch.float64)
    found = conjugate_gradient(
        lambda v: diagonal * v, torch.tensor([1.0, 1.0], dtype=torch.float64), 10
    )
    assert bool(found.isfinite().all())


def test_conjugate_gradient_keeps_the_dtype_of_the_target():
    matrix = spd_matrix(6).float()
    found = conjugate_gradient(lambda v: matrix @ v, vector(6).float(), 30)
    assert found.dtype == torch.float32
    residual = matrix @ found - vector(6).float()
    assert float(residual.norm() / vector(6).norm()) < 1e-4


@pytest.mark.parametrize("damping", [0.0, 0.3])
@pytest.mark.parametrize("iterations", [2, 40])
def test_step_has_the_quadratic_kl_it_aims_at(damping, iterations):
    matrix, gradient = spd_matrix(8), vector(8)
    proposal = natural_step(
        lambda v: matrix @ v, gradient, 0.02, iterations=iterations, damping=damping
    )
    damped = matrix + damping * torch.eye(8, dtype=matrix.dtype)
    kl = 0.5 * float(proposal.step @ damped @ proposal.step)
    assert 0.9 <= MARGIN <= 1.0
    assert kl == pytest.approx(MARGIN * 0.02, rel=1e-12)
    assert proposal.predicted_gain == pytest.approx(float(gradient @ proposal.step), rel=1e-12)
    assert proposal.predicted_gain > 0.0


def test_step_is_along_the_natural_gradient():
    matrix, gradient = spd_matrix(8), vector(8)
    proposal = natural_step(lambda v: matrix @ v, gradient, 0.02, iterations=60, damping=0.3)
    natural = torch.linalg.solve(matrix + 0.3 * torch.eye(8, dtype=matrix.dtype), gradient)
    expected = math.sqrt(2.0 * MARGIN * 0.02 / float(gradient @ natural)) * natural
    torch.testing.assert_close(proposal.step, expected, rtol=1e-4, atol=1e-6)
    # among all steps of this quadratic KL none gains more: sqrt(2 KL g^T F^-1 g)
    best = math.sqrt(2.0 * MARGIN * 0.02 * float(gradient @ natural))
    assert proposal.predicted_gain == pytest.approx(best, rel=1e-8)


def test_step_does_not_depend_on_the_scale_of_the_objective():
    matrix, gradient = spd_matrix(8), vector(8)
    steps = [
        natural_step(lambda v: matrix @ v, s * gradient, 0.02, iterations=5, damping=0.1).step
        for s in (1.0, 1e-20)
    ]
    torch.testing.assert_close(*steps, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("gradient", "product"),
    [
        ([0.0, 0.0], lambda v: v),
        ([NAN, 1.0], lambda v: v),
        ([INF, 1.0], lambda v: v),
        ([1.0, 1.0], lambda v: -v),
        ([1.0, 1.0], lambda v: torch.zeros_like(v)),
        ([1.0, 1.0], lambda v: NAN * v),
        ([1.0, 1.0], lambda v: INF * v),
        ([1.0, 1.0], lambda v: v * torch.tensor([1.0, -1.0])),
    ],
    ids=[
        "zero gradient",
        "gradient with NaN",
        "infinite gradient",
        "negative definite",
        "zero curvature",
        "curvature NaN",
        "infinite curvature",
        "indefinite along the gradient",
    ],
)
def test_step_is_none_where_the_model_allows_none(gradient, product):
    proposal = natural_step(product, torch.tensor(gradient), 0.01, iterations=10, damping=0.0)
    assert proposal.step is None
    assert proposal.predicted_gain == 0.0


def search(points, start=1.0, max_kl=0.1):
    """Line search with decay 1/2 over listed (objective, KL), and the scales it tried."""
    scales = []

    def evaluate(scale):
        scales.append(scale)
        return points[len(scales) - 1]

    result = line_search(evaluate, start, max_kl, decay=0.5, max_tries=len(points))
    return result, scales


def test_line_search_takes_a_good_step_whole():
    result, scales = search([(3.0, 0.05), (4.0, 0.01)])
    assert result == SearchResult(scale=1.0, gain=2.0, kl=0.05, tried=1)
    assert scales == [1.0]


@pytest.mark.parametrize(
    "bad",
    [(NAN, 0.0), (2.0, NAN), (INF, 0.0), (-INF, 0.0), (2.0, -INF), (2.0, 0.11), (1.0, 0.05)],
    ids=[
        "objective NaN",
        "KL NaN",
        "objective infinite",
        "objective minus infinite",
        "KL minus infinite",
        "outside",
        "not better",
    ],
)
def test_line_search_shortens_after_a_bad_point(bad):
    result, scales = search([bad, bad, (1.5, 0.1)])
    assert result == SearchResult(scale=0.25, gain=0.5, kl=0.1, tried=3)
    assert scales == [1.0, 0.5, 0.25]


def test_line_search_without_a_good_point_accepts_nothing():
    result, scales = search([(0.0, 0.05)] * 4)
    assert result == SearchResult(scale=0.0, gain=0.0, kl=0.0, tried=4)
    assert scales == [1.0, 0.5, 0.25, 0.125]
