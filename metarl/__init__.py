"""Meta-reinforcement learning for robots: from many tasks, a policy that adapts to a new one."""

__version__ = "0.1.0"
