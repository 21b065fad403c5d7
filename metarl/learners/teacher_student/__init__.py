"""Teacher and student: a policy that sees the task, and one that learns to do without."""
