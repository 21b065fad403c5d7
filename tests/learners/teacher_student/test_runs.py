"""Runs that start from other runs, phases that go on, and the teacher of a student."""

import json

import pytest
from commands import read_records

import metarl
from metarl.cli.commands import main
from metarl.core.errors import CheckpointError, ConfigError
from metarl.evaluation.results import read_oracle
from metarl.runs.logger import without_time

TEACHER = {"teacher_updates": 1, "hidden_size": 8, "memory_size": 8}
TEACHING = {"sampler": {"num_tasks": 2, "num_episodes": 1}, "evaluate": False}


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    run = tmp_path_factory.mktemp("taught") / "run"
    options = {**TEACHING, "learner": TEACHER, "run_dir": run}
    metarl.train("navigation-2d", "teacher-student", iterations=2, **options).close()
    return run


def test_teacher_of_a_run_is_evaluated_as_an_oracle(taught, tmp_path):
    metarl.evaluate(taught, num_tasks=2)
    before = (taught / "evaluation.json").read_bytes()
    assert main(["evaluate", str(taught), "--teacher", "--num-tasks", "2"]) == 0
    assert (taught / "evaluations" / "tasks-2_adaptations-3_teacher.json").is_file()
    with metarl.load(taught, is_teacher=True) as teacher:
        result = metarl.evaluate(teacher, num_tasks=2, num_adaptations=0)
        with pytest.raises(ConfigError, match="an oracle observes the task"):
            metarl.explain(teacher)
    assert result["algo"] == "teacher-student-oracle"
    assert "the task is in the observation" in result["note"]
    assert (taught / "evaluation.json").read_bytes() == before
    metarl.train("navigation-2d", run_dir=tmp_path / "maml", iterations=1, **TEACHING)
    with pytest.raises(ConfigError, match="--teacher: .* is a run of maml-trpo; give a run of"):
        metarl.load(tmp_path / "maml", is_teacher=True)


def test_oracle_of_teacher_student_needs_no_student(taught, tmp_path):
    options = {**TEACHING, "run_dir": tmp_path / "run", "init_from": taught, "iterations": 1}
    learner = {"mode": "oracle", "hidden_size": 8, "memory_size": 8}
    with metarl.train("navigation-2d", "teacher-student", learner=learner, **options) as oracle:
        assert oracle.learner.phase == "teacher"
        metarl.evaluate(oracle, num_tasks=2)
    assert read_oracle(oracle.path, "navigation-2d")["run"] == "run"
    with metarl.load(oracle.path) as loaded:  # from the sizes in run.json
        assert metarl.evaluate(loaded, num_tasks=2)["algo"] == "teacher-student-oracle"


def test_phases_resume_bit_for_bit(tmp_path):
    learner = {**TEACHER, "student_updates": 1}
    for name, stops in (("whole", [4]), ("parts", [3, 4])):
        options = {**TEACHING, "learner": learner, "run_dir": tmp_path / name}
        metarl.train("navigation-2d", "teacher-student", iterations=stops[0], **options)
        for iterations in stops[1:]:
            metarl.train(resume=tmp_path / name, iterations=iterations, evaluate=False)
    one, other = (read_records(tmp_path / name) for name in ("whole", "parts"))
    assert list(map(without_time, one)) == list(map(without_time, other))
    phases = [record["update/phase"] for record in read_records(tmp_path / "parts")]
    assert phases == [1.0, 2.0, 3.0, 3.0]


def test_teacher_starts_from_one_of_other_tasks(tmp_path, capsys):
    options = {**TEACHING, "sampler": {"num_tasks": 1, "num_episodes": 1}}
    first, second = tmp_path / "first", tmp_path / "second"
    learner = {"learner": TEACHER, "iterations": 2}
    with metarl.train("quadruped-vel", "teacher-student", run_dir=first, **options, **learner):
        pass
    more = {**options, **learner, "init_from": first}
    with metarl.train("quadruped-vel-load", "teacher-student", run_dir=second, **more):
        pass
    line = f"from iteration 2 of {first} on quadruped-vel: the teacher's phase begins; "
    line += "its encoder learns load, load_x, load_y anew\n"
    assert line in capsys.readouterr().out
    assert json.loads((second / "run.json").read_text())["init_from"]["iteration"] == 2
    assert [r["update/phase"] for r in read_records(second)] == [1.0, 2.0]
    with pytest.raises(CheckpointError, match="does not fit .*: it is of other observations"):
        metarl.train("navigation-2d", "teacher-student", run_dir=tmp_path / "x", **more)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        ({"teacher_updates": 0}, "--learner.teacher-updates = 0: must be at least 1: .*init-from"),
        (
            {"teacher_updates": 1, "student_updates": 1},
            r"more than learner.teacher_updates \+ learner.student_updates = 2: fine-tuning",
        ),
    ],
)
def test_phases_that_cannot_be_are_refused(learner, message, tmp_path):
    settings = {"iterations": 2, "learner": learner, "run_dir": tmp_path / "run"}
    with pytest.raises(ConfigError, match=message):
        metarl.train("navigation-2d", "teacher-student", **settings)
    assert not (tmp_path / "run").exists()
