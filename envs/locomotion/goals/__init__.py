"""Goals of a robot: the reward of a motion, given the task."""
