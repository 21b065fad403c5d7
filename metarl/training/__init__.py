"""The training loop, which knows no algorithm; learners and collection live elsewhere."""
