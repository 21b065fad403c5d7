"""Bayesian MAML: particles of policies that adapt together by Stein variational steps."""
