"""Metric-based adaptation: an encoder that tells tasks apart, and a policy that reads it."""
