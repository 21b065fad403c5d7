"""A teacher that begins with another's weights, and one that acts as an oracle."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from teacher_bench import CONFIG, TASKS, build, learn

from metarl.core.task_code import TaskCode
from metarl.core.tasks import Uniform, Variable
from metarl.learners.teacher_student.teacher_student import TeacherStudent

LOAD = Variable("load", "1", 0.0, 0.3)
SIGN = TASKS.variables[0]
FAILURE = Variable("failure", "1", 0.0, 1.0, labels=("dead", "weak"))
WIDER = Uniform((LOAD, FAILURE, SIGN))


def output_of_teacher(learner, tasks, obs):
    """The mode of the teacher's action, without noise."""
    context = learner.begin_training(tasks, 1, ())
    with torch.inference_mode():
        return learner.act(context, obs, torch.zeros(len(tasks), 1, 1), explore=False)[0].value


def build_for(tasks, config=CONFIG, seed=5):
    return TeacherStudent(config, 2, 1, tasks=tasks, seed=seed)


def test_teacher_of_more_numbers_acts_as_before():
    source = build()
    learn(source, range(2))
    learner = build_for(WIDER)
    text = learner.start_from(source.state_dict(), TASKS)
    assert text == "the teacher's phase begins; its encoder learns load, failure anew"
    state, before = learner.state_dict(), source.state_dict()
    assert learner.phase == "teacher" and int(state["updates"]) == 0 and int(before["updates"]) == 2
    obs = torch.randn(2, 1, 2, generator=torch.Generator().manual_seed(0))
    tasks = np.array([[0.1, 1.0, -1.0], [0.3, 0.0, 1.0]])
    # the context of a teacher, whose weights stay
    learner._state.updates = source._state.updates = 0
    expected = output_of_teacher(source, tasks[:, 2:], obs)
    assert torch.equal(output_of_teacher(learner, tasks, obs), expected)
    for name, value in before.items():
        if name.startswith(("policy/memory", "policy/guess", "policy/critic", "obs/", "value/")):
            assert torch.equal(state[name], value), name


def test_number_of_another_range_or_none_starts_anew():
    source = build_for(WIDER)
    other = build_for(Uniform((replace(LOAD, high=0.5), SIGN)))
    text = other.start_from(source.state_dict(), WIDER)
    assert text.endswith("its encoder learns load anew")
    name = "policy/encoder.0.weight"
    old, new = source.state_dict()[name], other.state_dict()[name]
    assert torch.equal(new, torch.stack([torch.zeros(16), old[:, 3]], dim=1))


def test_new_weights_learn():
    learner = build_for(WIDER)
    learner.start_from(build().state_dict(), TASKS)
    weight = learner.network.encoder[0].weight
    assert not weight[:, :3].any() and weight[:, 3].any()
    tasks = np.array([[0.3, 0.0, 1.0], [0.3, 1.0, 1.0]])
    learner.network.encoder(learner._encode(tasks)).square().sum().backward()
    assert (weight.grad != 0.0).any(dim=0).all()


def test_same_tasks_keep_the_whole_encoder():
    source = build()
    learn(source, range(1))
    learner = build(seed=3)
    assert learner.start_from(source.state_dict(), TASKS).endswith("its encoder is kept")
    expected = source.state_dict() | {"updates": torch.tensor(0)}
    assert all(torch.equal(value, expected[n]) for n, value in learner.state_dict().items())


def test_state_without_an_optimiser_starts_too():
    source = build()
    learn(source, range(1))
    state = {n: v for n, v in source.state_dict().items() if not source.is_optimiser(n)}
    learner = build_for(WIDER, replace(CONFIG, teacher_updates=0))
    assert learner.start_from(state, TASKS).startswith("the student's phase begins")
    assert not learner.state_dict()["adam/exp_avg/actor.0.weight"].any()


def test_step_sizes_start_anew_with_and_without_a_target():
    source = build(replace(CONFIG, lr=1e-2))
    learner = build(replace(CONFIG, lr=2e-3))
    learner.start_from(source.state_dict(), TASKS)
    assert float(learner.state_dict()["adam/lr"]) == 2e-3
    adaptive = build(replace(CONFIG, lr=2e-3, target_kl=0.01))
    adaptive.start_from(source.state_dict(), TASKS)
    assert float(adaptive.state_dict()["adam/lr"]) == 2e-3


@pytest.mark.parametrize(
    ("settings", "tasks", "message"),
    [
        ({"hidden_size": 8}, TASKS, "policy/"),
        ({"memory_size": 8}, TASKS, "policy/memory"),
        ({}, WIDER, r"encoder.0.weight' is of shape \(16, 1\), and the task has 4"),
    ],
)
def test_state_that_does_not_fit_changes_nothing(settings, tasks, message):
    learner = build(replace(CONFIG, **settings))
    before = learner.state_dict()
    with pytest.raises(ValueError, match=message):
        learner.start_from(build().state_dict(), tasks)
    after = learner.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_oracle_reads_the_task_in_the_observation():
    teacher = build_for(WIDER)
    config = replace(CONFIG, mode="oracle")
    oracle = TeacherStudent(config, 2 + 3, 1, tasks=WIDER, seed=5)
    oracle.load_state_dict(teacher.state_dict())
    tasks = np.array([[0.1, 1.0, -1.0], [0.3, 0.0, 1.0]])
    obs = torch.randn(2, 1, 2, generator=torch.Generator().manual_seed(0))
    scaled = torch.from_numpy(TaskCode(WIDER).scale(tasks)).float()[:, None]
    seen = torch.cat([obs, scaled], dim=-1)
    context = oracle.begin(2, 1, ())
    with torch.inference_mode():
        action, after = oracle.act(context, seen, torch.zeros(2, 1, 1), explore=False)
    assert after is context and context.slice_tasks(0, 1) is context
    torch.testing.assert_close(action.value, output_of_teacher(teacher, tasks, obs))
    other = torch.cat([obs, -scaled], dim=-1)
    with torch.inference_mode():
        changed, _ = oracle.act(context, other, torch.zeros(2, 1, 1), explore=False)
    assert not torch.equal(changed.value, action.value)
