"""Meta-World's ML1, ML10 and ML45: `--env metarl_metaworld:ML10`, `metarl_metaworld:ML1_reach`.

A task is a kind of manipulation and one of Meta-World's 50 places of object and goal for it. ML10
and ML45 train on 10 and 45 kinds and are tested on 5 others; ML1 trains on 50 places of one kind
and is tested on 50 others.
"""

import functools

import gymnasium
import metaworld
from metaworld import env_dict

NUM_PLACES, SEED = 50, 0


@functools.cache
def benchmark(kind):
    """Makes Meta-World's own places for one kind, with 100 resets, when they are first needed."""
    return metaworld.ML1(kind, seed=SEED)


class MetaWorld(gymnasium.Env):
    """Meta-World's reward, 0 to 10 a step; the goal is hidden."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}
    horizon, dt = 500, 0.0125
    train_kinds = test_kinds = ("reach-v3",)

    def __init__(self, render_mode=None):
        self.render_mode, self._kind = render_mode, None
        self._use(self.train_kinds[0])
        self.action_space = self._env.action_space
        self.observation_space = self._env.observation_space

    def _use(self, kind):
        if kind != self._kind:  # reading the meshes takes half a second
            if self._kind is not None:
                self._env.close()
            self._env = benchmark(kind).train_classes[kind](render_mode=self.render_mode)
            self._kind = kind

    def _tasks(self, rng, n, kinds, test):
        """Draws every kind equally often, in random order."""
        rounds = [rng.permutation(len(kinds)) for _ in range(-(-n // len(kinds)))]
        order = [int(i) for part in rounds for i in part][:n]
        all_kinds = [*self.train_kinds, *(k for k in self.test_kinds if k not in self.train_kinds)]
        return [
            {
                "kind": all_kinds.index(kinds[i]),
                "place": int(rng.integers(NUM_PLACES)),
                "test": test,
            }
            for i in order
        ]

    def sample_tasks(self, rng, n):
        return self._tasks(rng, n, self.train_kinds, False)

    def sample_test_tasks(self, rng, n):
        return self._tasks(rng, n, self.test_kinds, self.train_kinds == self.test_kinds)

    def _name(self, task):
        all_kinds = [*self.train_kinds, *(k for k in self.test_kinds if k not in self.train_kinds)]
        return all_kinds[task["kind"]]

    def set_task(self, task):
        kind = self._name(task)
        self._use(kind)
        places = benchmark(kind)
        self._env.set_task(
            (places.test_tasks if task["test"] else places.train_tasks)[task["place"]]
        )

    def task_words(self, task):
        return f"{self._name(task)}, place {task['place']}"

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._env.reset()

    def step(self, action):
        return self._env.step(action)

    def render(self):
        return self._env.render()

    def close(self):
        self._env.close()


class ML10(MetaWorld):
    """Ten kinds to train on, five others to test on."""

    train_kinds = tuple(env_dict.ML10_V3["train"])
    test_kinds = tuple(env_dict.ML10_V3["test"])


class ML45(MetaWorld):
    """Forty-five kinds to train on, five others to test on."""

    train_kinds = tuple(env_dict.ML45_V3["train"])
    test_kinds = tuple(env_dict.ML45_V3["test"])


# ML1_reach, ML1_push, ...: one class for each of the 50 kinds; workers import a class by its name
for _kind in metaworld.ML1.ENV_NAMES:
    _name = "ML1_" + _kind.removesuffix("-v3").replace("-", "_")
    _body = {"train_kinds": (_kind,), "test_kinds": (_kind,), "__module__": __name__}
    globals()[_name] = type(_name, (MetaWorld,), _body)
