"""Adaptation by a Gaussian process over the task numbers that a policy is given."""
