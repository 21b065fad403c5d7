import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarl.core.tasks import (
    Bands,
    Choice,
    Disc,
    Fixed,
    Product,
    Sometimes,
    Split,
    Uniform,
    Variable,
    describe_task,
    fixed_set,
    full_range,
)
from metarl.envs.locomotion.goals.hidden import Direction, ForwardBackward, Position, Velocity
from metarl.envs.navigation import DenseGoal, SparseGoal

SEEDS = st.integers(0, 2**32 - 1)
SIGNS = Choice(Variable("sign", "1", -1.0, 1.0), (-1.0, 1.0))
ANGLES = Uniform((Variable("angle", "rad", 0.0, 2.0 * np.pi),))
few = settings(max_examples=30, deadline=None, database=None)


@pytest.mark.parametrize(
    ("goal", "variables"),
    [
        (Direction(), [("angle", "rad", 0.0, 2 * np.pi)]),
        (ForwardBackward(), [("sign", "1", -1.0, 1.0)]),
        (Velocity(), [("speed", "m/s", 0.0, 3.0)]),
        (Position(), [("goal_x", "m", -3.0, 3.0), ("goal_y", "m", -3.0, 3.0)]),
        (DenseGoal(), [("goal_x", "m", -0.5, 0.5), ("goal_y", "m", -0.5, 0.5)]),
        (SparseGoal(), [("angle", "rad", 0.0, np.pi)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_goal_draws_tasks_in_its_declared_ranges(goal, variables):
    declared = goal.tasks.variables
    assert [(v.name, v.unit, v.low, v.high) for v in declared] == variables

    tasks = goal.tasks.sample(np.random.default_rng(0), 4000)
    assert tasks.shape == (4000, len(variables))
    low, high = np.array([v[2:] for v in variables]).T
    assert (tasks >= low).all() and (tasks <= high).all()
    # 4,000 draws come near both ends of every range (a disc is thin at its edge)
    assert (tasks.min(axis=0) < low + 0.03 * (high - low)).all()
    assert (tasks.max(axis=0) > high - 0.03 * (high - low)).all()


@few
@given(SEEDS, st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(1, 50))
def test_uniform_stays_in_its_bounds(seed, low, width, num_tasks):
    distribution = Uniform((Variable("a", "m", low, low + width), Variable("b", "m", 0.0, width)))
    tasks = distribution.sample(np.random.default_rng(seed), num_tasks)
    assert tasks.shape == (num_tasks, 2)
    assert (low <= tasks[:, 0]).all() and (tasks[:, 0] <= low + width).all()
    assert (tasks[:, 1] >= 0.0).all() and (tasks[:, 1] <= width).all()


def test_uniform_has_mean_and_variance_of_its_range():
    angle = ANGLES.sample(np.random.default_rng(1), 40_000)[:, 0]
    sigma = 2 * np.pi / np.sqrt(12)
    np.testing.assert_allclose(angle.mean(), np.pi, atol=5 * sigma / 200)
    np.testing.assert_allclose(angle.std(), sigma, rtol=0.02)


def test_uniform_variables_are_independent():
    points = DenseGoal().tasks.sample(np.random.default_rng(2), 40_000)
    assert abs(np.corrcoef(points.T)[0, 1]) < 5 / 200


def test_disc_is_uniform_by_area():
    radius, num_tasks = 3.0, 40_000
    points = Disc(radius).sample(np.random.default_rng(3), num_tasks)
    square = (points**2).sum(axis=1)
    # r^2 is uniform in [0, R^2]: mean R^2 / 2, standard deviation R^2 / sqrt(12)
    error = 5 * radius**2 / np.sqrt(12 * num_tasks)
    np.testing.assert_allclose(square.mean(), radius**2 / 2, atol=error)
    # the disc of half the radius has a quarter of the area
    fraction = np.mean(square < (radius / 2) ** 2)
    np.testing.assert_allclose(fraction, 0.25, atol=5 * np.sqrt(0.25 * 0.75 / num_tasks))
    # all directions are equally likely: E[x] = E[y] = 0, E[x^2] = R^2 / 4 each
    np.testing.assert_allclose(points.mean(axis=0), 0.0, atol=5 * radius / 2 / np.sqrt(num_tasks))
    np.testing.assert_allclose((points**2).mean(axis=0), radius**2 / 4, rtol=0.03)
    assert square.max() <= radius**2


def test_choice_of_two_signs_draws_ten_each_of_twenty():
    for seed in range(50):
        signs = SIGNS.sample(np.random.default_rng(seed), 20)[:, 0]
        assert (signs == -1.0).sum() == (signs == 1.0).sum() == 10


def test_choice_draws_in_random_order():
    orders = {tuple(SIGNS.sample(np.random.default_rng(s), 20)[:, 0]) for s in range(50)}
    assert len(orders) > 45


def test_choice_draws_an_odd_number_without_bias():
    # the 21st sign is a fair coin: 200 draws, standard deviation sqrt(200) / 2 = 7.1
    sums = [SIGNS.sample(np.random.default_rng(seed), 21).sum() for seed in range(200)]
    assert set(sums) == {-1.0, 1.0}
    assert abs(sums.count(1.0) - 100) < 5 * 7.1


@few
@given(SEEDS, st.integers(1, 40), st.integers(1, 7))
def test_choice_draws_values_equally_often(seed, num_tasks, num_values):
    values = tuple(map(float, range(num_values)))
    choice = Choice(Variable("leg", "1", 0.0, num_values - 1.0), values)
    tasks = choice.sample(np.random.default_rng(seed), num_tasks)
    assert tasks.shape == (num_tasks, 1)
    counts = [int((tasks == value).sum()) for value in values]
    assert sum(counts) == num_tasks
    assert max(counts) - min(counts) <= 1


@few
@given(SEEDS, st.integers(1, 60), st.integers(1, 12))
def test_fixed_set_draws_tasks_equally_often(seed, num_tasks, size):
    fixed = Fixed((Variable("id", "1", 0.0, 20.0),), tuple((float(i),) for i in range(size)))
    tasks = fixed.sample(np.random.default_rng(seed), num_tasks)[:, 0]
    counts = np.bincount(tasks.astype(int), minlength=size)
    assert counts.sum() == num_tasks
    assert counts.max() - counts.min() <= 1
    # every task is drawn once before any is drawn again
    assert sorted(tasks[:size]) == sorted(set(tasks[:size]))


def test_fixed_set_changes_its_order():
    fixed = fixed_set(ANGLES, np.random.default_rng(0), 20)
    rng = np.random.default_rng(1)
    first, second = fixed.sample(rng, 20), fixed.sample(rng, 20)
    assert not np.array_equal(first, second)
    assert np.array_equal(np.sort(first, axis=0), np.sort(second, axis=0))


def test_fixed_set_is_a_function_of_its_stream():
    first, again = (fixed_set(ANGLES, np.random.default_rng(7), 40) for _ in range(2))
    assert first == again
    assert first.variables == ANGLES.variables
    # bit for bit; and samples contain only tasks of the set
    drawn = ANGLES.sample(np.random.default_rng(7), 40)
    assert first.tasks == tuple(map(tuple, drawn.tolist()))
    assert np.isin(first.sample(np.random.default_rng(8), 100), drawn).all()


@pytest.mark.parametrize("distribution", [ANGLES, Disc(3.0)], ids=["angles", "disc"])
def test_fixed_sets_of_two_streams_share_no_task(distribution):
    train = fixed_set(distribution, np.random.default_rng([0, 1]), 100)
    test = fixed_set(distribution, np.random.default_rng([0, 2]), 100)
    assert distribution.held_out and train.held_out and test.held_out
    assert len(set(train.tasks) | set(test.tasks)) == 200


def test_fixed_set_of_two_signs_holds_out_no_task():
    assert not SIGNS.held_out
    assert not fixed_set(SIGNS, np.random.default_rng(0), 20).held_out


def test_fixed_set_needs_a_task():
    with pytest.raises(ValueError, match="at least one task, got 0"):
        fixed_set(ANGLES, np.random.default_rng(0), 0)


def test_describe_task_gives_names_units_and_labels():
    variables = (Variable("angle", "rad", 0.0, 7.0), Variable("sign", "1", -1.0, 1.0))
    assert describe_task(variables, np.array([np.pi / 2, -1.0])) == "angle 1.57 rad, sign -1"
    sign, goal = variables[1], Variable("goal_x", "m", -1.0, 1.0)
    assert describe_task((sign, goal), np.array([-1.0, 0.5])) == "sign -1, goal x 0.50 m"
    kind = Variable("kind", "1", 0.0, 1.0, labels=("slopes", "stairs"))
    assert describe_task((kind,), np.array([1.0])) == "kind stairs"
    assert describe_task((kind, sign), np.array([1.0, -1.0])) == "kind stairs, sign -1"
    with pytest.raises(ValueError, match="zip"):
        describe_task(variables, np.array([1.0]))


# --- held-out ranges and kinds


NEAR, FAR = Bands("friction", "1", ((0.2, 1.5),)), Bands("friction", "1", ((0.1, 0.2), (1.5, 3)))


def test_bands_are_equally_frequent_with_gaps_between():
    drawn = FAR.sample(np.random.default_rng(0), 2000)
    assert drawn.shape == (2000, 1)
    assert FAR.variables == (Variable("friction", "1", 0.1, 3, ((0.1, 0.2), (1.5, 3))),)
    assert NEAR.variables == (Variable("friction", "1", 0.2, 1.5),)
    low, high = drawn[drawn < 1.0], drawn[drawn > 1.0]
    assert len(low) == len(high) == 1000
    for band, (start, end) in ((low, (0.1, 0.2)), (high, (1.5, 3.0))):
        assert start <= band.min() and band.max() <= end
        np.testing.assert_allclose(band.mean(), (start + end) / 2, rtol=0.03)


def test_bands_can_be_uniform_in_the_logarithm():
    drawn = Bands("mass", "kg", ((0.01, 100.0),), log=True).sample(np.random.default_rng(1), 4000)
    # a quarter of the draws in each decade: standard deviation 0.007
    counts = np.histogram(np.log10(drawn), bins=4, range=(-2, 2))[0] / 4000
    np.testing.assert_allclose(counts, 0.25, atol=0.035)


def test_sometimes_draws_zero_or_a_whole_number():
    drawn = Sometimes("onset", "step", 3, 5, 0.25).sample(np.random.default_rng(2), 4000)[:, 0]
    assert set(drawn) == {0.0, 3.0, 4.0, 5.0}
    np.testing.assert_allclose((drawn > 0).mean(), 0.25, atol=0.035)
    np.testing.assert_allclose((drawn == 5).mean(), 0.25 / 3, atol=0.025)


def test_split_draws_training_and_test_tasks_separately():
    split = Split(NEAR, FAR)
    assert split.held_out and split.variables == NEAR.variables
    rng, again = np.random.default_rng(3), np.random.default_rng(3)
    np.testing.assert_array_equal(split.sample(rng, 9), NEAR.sample(again, 9))
    np.testing.assert_array_equal(split.test.sample(rng, 9), FAR.sample(again, 9))


@pytest.mark.parametrize(
    "tasks", [ANGLES, Disc(3.0), SIGNS, NEAR, fixed_set(ANGLES, np.random.default_rng(0), 3)]
)
def test_distribution_without_split_is_its_own_test(tasks):
    assert tasks.test is tasks


def test_product_joins_the_numbers_of_its_parts_in_order():
    product = Product((ANGLES, Split(NEAR, FAR), SIGNS))
    assert [v.name for v in product.variables] == ["angle", "friction", "sign"]
    rng, again = np.random.default_rng(4), np.random.default_rng(4)
    tasks = product.sample(rng, 6)
    for column, part in enumerate((ANGLES, NEAR, SIGNS)):
        np.testing.assert_array_equal(tasks[:, [column]], part.sample(again, 6))
    test = product.test.sample(rng, 50)[:, 1]
    assert ((test <= 0.2) | (test >= 1.5)).all()
    # one part with held-out tasks is enough
    assert product.held_out and not Product((SIGNS, SIGNS)).held_out


def test_full_range_covers_training_and_test_tasks():
    low, high = full_range(Product((ANGLES, Split(NEAR, FAR))))
    np.testing.assert_allclose(low, [0.0, 0.1])
    np.testing.assert_allclose(high, [2 * np.pi, 3.0])
