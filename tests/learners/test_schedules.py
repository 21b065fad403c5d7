"""Step sizes, weights and counts of a run that starts from another one."""

import pytest
import torch
from learner_cases import CASES as LEARNERS

import metarl
from metarl.core.env import supports
from metarl.core.learner import HasSchedule, StartsFromOtherTasks
from metarl.envs.registry import make
from metarl.learners.registry import ALGORITHMS, build_learner

SAMPLER = {"num_tasks": 2, "num_episodes": 2}
TRAINER = {"video": False, "evaluate_tasks": 0, "logger": "none"}

CASES = {
    "bmaml": ({"hidden_sizes": [8]}, {"outer_lr": 1e-9}, "adam/lr/policy"),
    "gp": ({"hidden_size": 8}, {"lr": 1e-9, "target_kl": 0.0}, "adam/lr/policy"),
    "metric": ({"hidden_size": 8}, {"lr": 1e-9, "target_kl": 0.0}, "adam/lr/policy"),
    "rl2": (
        {"memory_size": 8, "target_kl": 1e-9, "epochs": 1},
        {"lr": 1e-9, "target_kl": 1e9},
        "adam/lr",
    ),
    "promp": ({"hidden_sizes": [8]}, {"inner_kl_weight": 1e-9}, "adam/inner_kl_weight"),
}
"""Settings of both runs, settings of the second one, and the entry of its state."""


def start(folder, algo, learner, iterations=1, **options):
    settings = {"sampler": SAMPLER, "trainer": TRAINER, "learner": learner, **options}
    metarl.train("navigation-2d", algo, run_dir=folder, iterations=iterations, **settings).close()
    return folder


@pytest.mark.parametrize("algo", CASES)
def test_run_from_another_starts_with_its_own_step_size(algo, tmp_path):
    shared, own, entry = CASES[algo]
    source = start(tmp_path / "source", algo, shared)
    tuned = start(tmp_path / "tuned", algo, shared | own, init_from=source)
    with metarl.load(source) as before, metarl.load(tuned) as after:
        values = [float(each.learner.state_dict()[entry]) for each in (before, after)]
    assert values[0] > 1e-6
    # adapted once at most, by a factor of 1.5 or 2
    assert 0.4e-9 < values[1] < 2.1e-9


def test_run_from_another_halves_its_trust_region_anew(tmp_path):
    learner = {"hidden_sizes": [8], "kl_halving": 1, "max_kl": 0.04}
    source = start(tmp_path / "source", "maml-trpo", learner, iterations=3)
    tuned = start(tmp_path / "tuned", "maml-trpo", learner, init_from=source)
    with metarl.load(source) as before, metarl.load(tuned) as after:
        assert before.learner.max_kl() == pytest.approx(0.04 / 8)
        assert after.learner.max_kl() == pytest.approx(0.04 / 2)


OWN_COUNT = {"grbal"}
"""Its count says that there is a model to plan with, which a new run takes over."""


@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_resets_its_schedule(name):
    algo, env = name.partition(",")[0], make("navigation-2d", 1)
    learner = build_learner(ALGORITHMS[algo], LEARNERS[name].config, env.spec, seed=0)
    fresh = learner.state_dict()
    kept = {n for n in fresh if n.startswith("adam/lr") or n == "updates"}
    changed = fresh | {n: torch.full_like(fresh[n], 7) for n in kept}
    if supports(learner, StartsFromOtherTasks):
        learner.start_from(changed, env.spec.tasks)
    elif supports(learner, HasSchedule):
        learner.load_state_dict(changed)
        learner.reset_schedule()
    else:
        assert algo in OWN_COUNT and not any(n.startswith("adam/lr") for n in kept)
        return
    assert "updates" in kept
    after = learner.state_dict()
    assert all(torch.equal(after[n], fresh[n]) for n in kept)


@pytest.mark.parametrize("target_kls", [(0.0, 0.01), (0.01, 0.0)])
def test_rl2_starts_from_a_run_with_or_without_target_kl(target_kls, tmp_path):
    one, other = ({"memory_size": 8, "epochs": 1, "target_kl": kl} for kl in target_kls)
    source = start(tmp_path / "source", "rl2", one)
    start(tmp_path / "tuned", "rl2", other, init_from=source)


def test_rl2_takes_a_state_without_a_step_size():
    env = make("navigation-2d", 1)
    config = ALGORITHMS["rl2"].config(memory_size=8, target_kl=0.01)
    learner = build_learner(ALGORITHMS["rl2"], config, env.spec, seed=0)
    state = {n: v for n, v in learner.state_dict().items() if n != "adam/lr"}
    learner.load_state_dict(state)
    assert float(learner.state_dict()["adam/lr"]) == config.lr


@pytest.mark.parametrize(("target_kl", "expected"), [(0.0, 3e-4), (0.01, 1e-9)])
def test_rl2_keeps_its_step_size_without_a_target(target_kl, expected):
    env = make("navigation-2d", 1)
    config = ALGORITHMS["rl2"].config(memory_size=8, target_kl=target_kl, lr=3e-4)
    learner = build_learner(ALGORITHMS["rl2"], config, env.spec, seed=0)
    adapted = {"adam/lr": torch.tensor(1e-9, dtype=torch.float64)}
    learner.load_state_dict(learner.state_dict() | adapted)
    assert float(learner.state_dict()["adam/lr"]) == expected
