"""PCGrad against a case worked out by hand."""

import torch

from metarl.learners.maml.meta_gradient import resolve_conflicts


def test_conflicting_gradients_are_projected():
    one, other = torch.tensor([[1.0, 0.0], [-1.0, 1.0]]).double()
    ours = resolve_conflicts(torch.stack([one, other]))
    # each loses its component along the other: (1, 0) + 1/2 (-1, 1), and (-1, 1) + (1, 0)
    torch.testing.assert_close(ours, torch.tensor([[0.5, 0.5], [0.0, 1.0]]).double())
    agreeing = torch.tensor([[1.0, 0.5], [0.5, 1.0], [1.0, 1.0]]).double()
    assert torch.equal(resolve_conflicts(agreeing, seed=4), agreeing)
