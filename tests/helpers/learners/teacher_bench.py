"""Teacher and student on tasks that differ in a sign."""

from dataclasses import replace

from sign_tasks import SignBatch, signs
from whole_trial import trial

from metarl.core.tasks import Choice, Variable
from metarl.learners.teacher_student.config import TeacherStudentConfig
from metarl.learners.teacher_student.teacher_student import TeacherStudent
from metarl.sampling.sampler import Key

TASKS = Choice(Variable("sign", "1", -1.0, 1.0), (-1.0, 1.0))
CONFIG = TeacherStudentConfig(
    teacher_updates=1, hidden_size=16, memory_size=16, latent_size=3, lr=3e-3, target_kl=0.0
)


def build(config=CONFIG, seed=0):
    return TeacherStudent(config, 2, 1, tasks=TASKS, seed=seed)


def collect(learner, iteration=0, *, eventful=False, num_tasks=6, is_training=True):
    tasks, key = signs(num_tasks, iteration), Key(0, "train", iteration)
    env = SignBatch(eventful=eventful)
    return *trial(env, learner, tasks, 2, 1, key, is_training=is_training), tasks


def learn(learner, iterations, **options):
    metrics = {}
    for iteration in iterations:
        rollouts, context, tasks = collect(learner, iteration, **options)
        metrics = learner.update(context, rollouts, tasks)
    return rollouts, metrics


def doubled(record):
    """The record with its floating-point tensors in float64."""
    found = {n: v.double() for n, v in vars(record).items() if v.is_floating_point()}
    return replace(record, **found)
