"""Matrices with orthonormal rows or columns, as first values of weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def draw_orthogonal(rng: np.random.Generator, shape: Sequence[int]) -> Tensor:
    """Draws a matrix (R, C) with orthonormal rows or columns, whichever are fewer."""
    rows, columns = shape
    normal = rng.standard_normal((max(rows, columns), min(rows, columns)))
    basis, upper = np.linalg.qr(normal)
    basis *= np.sign(np.diag(upper))  # without it the distribution is not uniform
    return torch.from_numpy(basis if rows >= columns else basis.T).float()
