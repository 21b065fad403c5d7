"""MAML-TRPO: gradient-based adaptation, and its exact meta-gradient."""
