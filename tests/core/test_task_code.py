"""Tasks as inputs of a network."""

import numpy as np
import pytest

from metarl.core.env import UnsupportedHere
from metarl.core.task_code import TaskCode
from metarl.core.tasks import Choice, Product, Split, Uniform, Variable

LEG = Variable("leg", "1", 0.0, 2.0, labels=("left", "right", "tail"))
TASKS = Product(
    (
        Split(Choice(LEG, (0.0, 1.0)), Choice(LEG, (2.0,))),
        Split(*(Uniform((Variable("load", "1", *ends),)) for ends in ((0.0, 1.0), (1.0, 4.0)))),
        Uniform((Variable("fixed", "m", 3.0, 3.0),)),
    )
)


def test_kinds_are_one_hot_and_numbers_within_their_range():
    code = TaskCode(TASKS)
    tasks = np.array([[0.0, 0.0, 3.0], [2.0, 4.0, 3.0], [1.0, 2.0, 3.0]])
    assert code.size == 5
    assert code.encode(tasks).tolist() == [
        [1.0, 0.0, 0.0, -1.0, 0.0],
        [0.0, 0.0, 1.0, 1.0, 0.0],
        [0.0, 1.0, 0.0, 0.0, 0.0],
    ]
    assert code.scale(tasks)[:, 0].tolist() == [-1.0, 1.0, 0.0]


def test_scaled_tasks_have_the_same_inputs():
    code, tasks = TaskCode(TASKS), TASKS.test.sample(np.random.default_rng(0), 20)
    scaled = code.scale(tasks).astype(np.float32)
    np.testing.assert_allclose(code.encode_numbers(scaled), code.encode(tasks), rtol=1e-6)


def test_inputs_of_the_same_meaning_are_equal():
    code = TaskCode(TASKS)
    assert code.meanings == [
        *(("leg", label) for label in LEG.labels),
        ("load", "1", 2.0, 2.0),
        ("fixed", "m", 3.0, 1e-300),
    ]
    other = TaskCode(Uniform((Variable("load", "1", 0.0, 4.0),)))
    assert other.meanings == code.meanings[3:4]


def test_angle_of_a_full_turn_is_a_point_on_a_circle():
    """Neighbours across the end of its range are neighbours; half a turn stays a number."""
    turn = Uniform((Variable("angle", "rad", 0.0, 2.0 * np.pi),))
    code = TaskCode(turn)
    assert code.size == 2 and code.meanings == [("angle", "cosine"), ("angle", "sine")]
    tasks = np.array([[0.01], [2.0 * np.pi - 0.01], [np.pi / 2.0]])
    found = code.encode(tasks)
    np.testing.assert_allclose(found, np.concatenate([np.cos(tasks), np.sin(tasks)], axis=1))
    assert np.abs(found[0] - found[1]).max() < 0.03
    np.testing.assert_allclose(code.encode_numbers(code.scale(tasks)), found, atol=1e-12)
    half = TaskCode(Uniform((Variable("angle", "rad", 0.0, np.pi),)))
    assert half.size == 1 and half.encode(np.array([[np.pi]])).tolist() == [[1.0]]
    length = TaskCode(Uniform((Variable("length", "m", 0.0, 2.0 * np.pi),)))
    assert length.size == 1


def test_task_without_a_range_is_refused():
    tasks = Uniform((Variable("speed", "m/s", 0.0, np.inf),))
    with pytest.raises(UnsupportedHere, match="the task numbers have no range"):
        TaskCode(tasks)
