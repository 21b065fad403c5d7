"""GrBAL: a dynamics model that adapts online by gradient steps, and a planner on it."""
