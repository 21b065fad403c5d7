"""Adaptations that are more than gradient steps of the policy."""
