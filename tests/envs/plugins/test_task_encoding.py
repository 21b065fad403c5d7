import numpy as np
import pytest

from metarl.envs.plugins.task_encoding import infer_common_form, infer_form

NUMBERS = [
    (1.5, ["task"]),
    (3, ["task"]),
    (True, ["task"]),
    (np.int64(-1), ["task"]),
    (np.float32(0.1), ["task"]),
    ((0.5, -2.0), ["task_0", "task_1"]),
    ([1, 2, 3], ["task_0", "task_1", "task_2"]),
    (np.array([0.1, 0.2], dtype=np.float32), ["task_0", "task_1"]),
    (np.array([0.1]), ["task_0"]),
    (np.array(0.1), ["task"]),
    ({"speed": np.array(3, dtype=np.int32)}, ["speed"]),
    ({"direction": -1.0}, ["direction"]),
    ({"goal": np.array([0.3, 4.0]), "leg": 2}, ["goal_0", "goal_1", "leg"]),
]


@pytest.mark.parametrize(("task", "names"), NUMBERS)
def test_task_of_numbers_survives_encoding(task, names):
    form = infer_form(task)
    row = form.encode(task)
    assert form.names() == names and row.dtype == float and row.shape == (len(names),)
    back = form.decode(row)
    if not isinstance(task, dict):
        task, back = {"": task}, {"": back}
    assert list(back) == list(task)
    for key, entry in task.items():
        assert type(back[key]) is type(entry) and np.array_equal(back[key], entry)
        assert np.asarray(back[key]).dtype == np.asarray(entry).dtype
        assert np.shape(back[key]) == np.shape(entry)


@pytest.mark.parametrize(
    "task",
    [
        "reach",
        None,
        {},
        {1: 2.0},
        {"a": "b"},
        [[1.0], [2.0]],
        [1, "a"],
        np.zeros((2, 2)),
        2**60 + 1,
    ],
)
def test_other_tasks_are_opaque(task):
    assert infer_form(task) is None


def test_tasks_of_different_forms_have_no_common_form():
    assert infer_common_form([1.0, 2.0]) == infer_form(3.0)
    assert infer_common_form([1.0, (1.0, 2.0)]) is None and infer_common_form(["a", 1.0]) is None
    with pytest.raises(ValueError, match="not all of one form: 2"):
        infer_form((1.0, 1.0)).encode(2)


@pytest.mark.parametrize("task", [(3, 0.86), [True, 2], (np.int8(3), 0.5, False), [1, 2.0]])
def test_numbers_of_a_sequence_keep_their_types(task):
    form = infer_form(task)
    back = form.decode(form.encode(task))
    assert back == task and type(back) is type(task)
    assert list(map(type, back)) == list(map(type, task))


@pytest.mark.parametrize(
    ("tasks", "kind"),
    [
        ([0.5, np.float64(0.25)], float),
        ([np.float32(0.5), np.float64(0.25)], float),
        ([np.int64(2), 3], int),
        ([1, np.float32(2.0)], int),
        ([True, np.bool_(False)], bool),
    ],
)
def test_numbers_of_python_and_numpy_may_mix(tasks, kind):
    form = infer_common_form(tasks)
    assert form is not None
    for task in tasks:
        back = form.decode(form.encode(task))
        assert back == task and type(back) is kind
        # the other type comes after the first draws
        assert infer_form(tasks[0]).encode(task).tolist() == [float(task)]
    assert infer_common_form([1.0, np.bool_(True)]) is None


def test_whole_numbers_and_fractions_may_mix():
    tasks = [{"spot": 1, "k": 0.25}, {"spot": 0.5, "k": 0.75}]
    form = infer_common_form(tasks)
    for task in [*tasks, {"spot": 2, "k": 0.5}]:
        back = form.decode(form.encode(task))
        assert back == task and list(map(type, back.values())) == list(map(type, task.values()))
    late = infer_common_form([{"spot": 1}, {"spot": 2}])  # the first fraction comes later
    assert late.decode(late.encode({"spot": 0.5})) == {"spot": 0.5}
    with pytest.raises(ValueError, match="not all of one form"):
        form.encode({"spot": True, "k": 0.5})
