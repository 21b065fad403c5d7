"""A trial of all tasks at once, the obvious way: the reference for `Collector.trial`."""

from metarl.core.env import supports
from metarl.core.learner import SeesTasks
from metarl.sampling.sampler import rollout


def trial(env, learner, tasks, num_episodes, num_adaptations, key, *, is_training=False, **options):
    """Returns the K + 1 rollouts of a trial and the context after the last one."""
    size = (len(tasks), num_episodes)
    env.set_tasks(tasks, num_episodes)
    rngs = key.tasks("begin", 0, len(tasks))
    if is_training and supports(learner, SeesTasks):
        context = learner.begin_training(tasks, num_episodes, rngs)
    else:
        context = learner.begin(*size, rngs)
    rollouts = []
    for k in range(num_adaptations + 1):
        if k > 0:
            context = learner.adapt(context, rollouts[-1], key.tasks("adapt", k, len(tasks)))
        collected, context = rollout(env, learner, context, key, k, size, **options)
        rollouts.append(collected)
    return rollouts, context
