"""PEARL: a policy that reads a guess of the task, trained off-policy by soft actor-critic."""
