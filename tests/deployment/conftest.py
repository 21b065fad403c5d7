import pytest
from small_runs import EPISODE_RUNS, MORE_RUNS, RUNS, SMALL, WITHOUT_GRAPH

import metarl


@pytest.fixture(scope="session")
def run_of(tmp_path_factory):
    """Trains a policy for two iterations, once, and returns its folder."""
    folder, done = tmp_path_factory.mktemp("runs"), {}

    def train(name, env="hopper-vel"):
        if (name, env) not in done:
            path = folder / f"{len(done)}"
            settings = (RUNS | MORE_RUNS | EPISODE_RUNS | WITHOUT_GRAPH)[name] | {
                "sampler": SMALL | {"threads": 1},
                "iterations": 2,
            }
            algo = name.partition(",")[0]
            metarl.train(env=env, algo=algo, evaluate=False, run_dir=path, **settings).close()
            done[name, env] = path
        return done[name, env]

    return train
