"""Few-shot supervised learning: small regressions and classifications, learned from few examples.

Tasks, learners and their comparison. Robots and policies do not live here.
"""
