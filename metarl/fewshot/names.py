"""Names of the tasks and learners, readable without torch."""

TASKS = ("sinusoid", "digits")
"""Regression of sinusoids, classification of handwritten digits."""

ALGOS = (
    *("maml", "fomaml", "reptile", "meta-sgd", "anil", "cavia", "prototypical", "siamese", "mann"),
    *("meta-lstm", "leo", "gp", "bmaml"),
)
"""Learners, in the order of a table."""

ONLY = {"prototypical": "digits", "siamese": "digits", "gp": "sinusoid"}
"""The task of those learners that fit only one: distances to classes, or an exact posterior."""

SHOTS = {"sinusoid": 5, "digits": 1}
"""Examples in a task, of each class in a classification, by default."""

ITERATIONS = 2000
"""Meta-updates of a training, by default."""

HELD_OUT = 4
"""Classes of digits that no training task has."""


def fitting(task: str) -> list[str]:
    """Returns the learners that can learn a task."""
    return [name for name in ALGOS if ONLY.get(name, task) == task]
