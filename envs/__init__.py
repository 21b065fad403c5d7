"""Task distributions and batched robot environments: NumPy and MuJoCo, without torch."""
