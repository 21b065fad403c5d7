"""A trial of all tasks at once, the obvious way: the reference for `Collector.trial`."""

from metarl.sampling.sampler import rollout


def trial(env, learner, tasks, num_episodes, num_adaptations, key, **options):
    """Returns the K + 1 rollouts of a trial and the context after the last one."""
    size = (len(tasks), num_episodes)
    env.set_tasks(tasks, num_episodes)
    context = learner.begin(*size, key.tasks("begin", 0, len(tasks)))
    rollouts = []
    for k in range(num_adaptations + 1):
        if k > 0:
            context = learner.adapt(context, rollouts[-1], key.tasks("adapt", k, len(tasks)))
        collected, context = rollout(env, learner, context, key, k, size, **options)
        rollouts.append(collected)
    return rollouts, context
