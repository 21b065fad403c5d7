"""Run folders: provenance, checkpoints, logs, progress, and their readers."""
