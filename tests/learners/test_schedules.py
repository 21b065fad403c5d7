"""Step sizes, weights and counts of a run that starts from another one."""

import pytest

import metarl

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
