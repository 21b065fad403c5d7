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


def test_task_without_a_range_is_refused():
    tasks = Uniform((Variable("speed", "m/s", 0.0, np.inf),))
    with pytest.raises(UnsupportedHere, match="the task numbers have no range"):
        TaskCode(tasks)
