"""RL^2: a policy with a memory that adapts by acting."""
