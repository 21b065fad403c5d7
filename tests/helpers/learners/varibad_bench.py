"""VariBAD on tasks that differ in a sign."""

from sign_tasks import SignBatch, signs
from whole_trial import trial

from metarl.learners.varibad.config import VaribadConfig
from metarl.learners.varibad.varibad import Varibad
from metarl.sampling.sampler import Key

CONFIG = VaribadConfig(
    hidden_size=16,
    memory_size=16,
    latent_size=3,
    decoder_size=16,
    lr=3e-3,
    encoder_lr=3e-3,
    target_kl=0.0,
    elbo_trials=8,
    elbo_steps=4,
    decoded_steps=4,
    buffer_trials=20,
    initial_log_std=-0.5,
)


def build(config=CONFIG, seed=0):
    return Varibad(config, 2, 1, seed=seed)


def collect(learner, iteration=0, *, eventful=False, num_tasks=6, num_adaptations=1, horizon=4):
    tasks, key = signs(num_tasks, iteration), Key(0, "train", iteration)
    env = SignBatch(horizon, eventful=eventful)
    return *trial(env, learner, tasks, 2, num_adaptations, key, is_training=True), tasks


def learn(learner, iterations, **options):
    metrics = {}
    for iteration in iterations:
        rollouts, context, tasks = collect(learner, iteration, **options)
        metrics = learner.update(context, rollouts, tasks)
    return rollouts, metrics
