import gymnasium


class HiddenSpot(gymnasium.Env):
    """A cart on a line that must find a hidden spot; the reward is -|x - spot|."""

    observation_space = gymnasium.spaces.Box(-6.0, 6.0, (1,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    horizon = 50

    def sample_tasks(self, rng, n):
        return [{"spot": x} for x in rng.uniform(-1.0, 1.0, n)]

    def set_task(self, task):
        self.spot = task["spot"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-0.1, 0.1, 1)
        return self.x, {}

    def step(self, action):
        self.x = self.x + 0.1 * action
        return self.x, -abs(float(self.x[0]) - self.spot), False, False, {}
