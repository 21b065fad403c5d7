"""Policies whose memory multiplies roundings, and which are no other policies for that."""

import pytest


def assert_roundings_are_no_other_policy(learner, network, collect, least, monkeypatch):
    """Its bound is exceeded late in a trial; another policy differs from the first step on.

    Args:
        learner: With a GRU.
        network: Its networks.
        collect: Returns what `update` takes.
        least: Error of the recomputed log-probabilities that shows the roundings.
        monkeypatch: That of pytest.
    """
    network.memory.cell.weight_hh_l0.data *= 3.2
    network.actor[2].weight.data *= 100.0
    collected = collect()
    before = learner.state_dict()
    with monkeypatch.context() as patch:
        patch.setattr("metarl.functional.ppo.NUDGE_FACTOR", 0.0)
        with pytest.raises(FloatingPointError, match="not the policy that acted"):
            learner.update(*collected)
    assert learner.update(*collected)["update/ratio_error"] > least
    learner.load_state_dict(before)
    network.actor[2].bias.data += 0.01
    with pytest.raises(FloatingPointError, match="not the policy that acted"):
        learner.update(*collected)
