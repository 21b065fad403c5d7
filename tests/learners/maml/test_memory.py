"""Second derivatives keep the steps of adaptation in memory; first-order learners must not."""

import pytest
from torch_memory import PeakMemory

from benchmarks.update import Sizes, synthetic
from metarl.learners.maml.config import MamlConfig
from metarl.learners.maml.maml import Maml

SIZES = Sizes(tasks=4, episodes=10, steps=50, obs=17, actions=6)


def measure_peak(num_adaptations, **settings):
    """Returns the peak memory of an update's tensors [bytes]."""
    learner = Maml(MamlConfig(task_chunk=4, **settings), SIZES.obs, SIZES.actions, seed=0)
    context, rollouts = learner.begin(SIZES.tasks, SIZES.episodes, ()), []
    for k in range(num_adaptations + 1):
        context = learner.adapt(context, rollouts[-1], ()) if k else context
        rollouts.append(synthetic(learner, context, SIZES, seed=k))
    with PeakMemory() as memory:
        learner.update(context, rollouts, None)
    return memory.peak


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({"first_order": True}, 0.6),
        ({"outer": "reptile"}, 0.5),
    ],
    ids=["fomaml", "reptile"],
)
def test_first_order_updates_take_less_memory(settings, most):
    assert measure_peak(1, **settings) < most * measure_peak(1)


@pytest.mark.parametrize("settings", [{"first_order": True}, {"outer": "reptile"}])
def test_first_order_steps_stay_in_no_memory(settings):
    """A further step adds its rollout to all, and to MAML its second derivatives as well."""
    first_order, exact = (
        measure_peak(3, **each) - measure_peak(1, **each) for each in (settings, {})
    )
    assert first_order < 0.25 * exact
