"""Task distributions and batched robot environments on NumPy and MuJoCo, without torch."""
