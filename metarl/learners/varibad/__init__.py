"""VariBAD: a policy that reads a belief about the task, from an encoder trained to predict."""
