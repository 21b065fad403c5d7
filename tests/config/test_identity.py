from dataclasses import replace

from metarl.config.identity import describe_identity
from metarl.config.schema import SamplerConfig, TrainConfig, from_yaml, to_yaml
from metarl.learners.maml.config import MamlConfig

CONFIG = TrainConfig(env="navigation-2d", learner=MamlConfig(inner_lr=1, hidden_sizes=(8,)))


def test_identity_survives_config_yaml(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(CONFIG))
    assert describe_identity(from_yaml(path)) == describe_identity(CONFIG)
    assert describe_identity(CONFIG)["learner.inner_lr"] == "1"  # 1.0 in the file


def test_identity_is_of_what_a_resumed_run_keeps():
    same = replace(CONFIG, iterations=9, device="cpu", sampler=SamplerConfig(threads=3))
    assert describe_identity(same) == describe_identity(CONFIG)
    for other in (replace(CONFIG, seed=8), replace(CONFIG, learner=MamlConfig(inner_lr=1))):
        assert describe_identity(other) != describe_identity(CONFIG)
