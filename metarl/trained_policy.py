"""A trained policy in its run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from metarl.builders import build_env, is_baseline
from metarl.config.schema import TrainConfig
from metarl.core.env import HasServos, supports
from metarl.core.errors import ConfigError, MetarlError
from metarl.core.messages import warn
from metarl.core.ranges import require_seed
from metarl.runs import provenance, published
from metarl.runs.recorded import read_spec
from metarl.runs.sources import hash_sources

if TYPE_CHECKING:
    from metarl.deployment.export.metadata import Origin
    from metarl.deployment.session import Session


@dataclass
class TrainedPolicy:
    """A learner in its run folder, with the settings it is or was trained with.

    Attributes:
        path: The run folder.
        config: The settings.
        learner: The learner.
        progress: Number of iterations done, environment steps and seconds.
        num_trained: Iterations that `train` added.
        is_env_owned: `close` closes the environment. False for one that was given as an object.
        is_teacher: This is the teacher of a run whose policy is the student.
    """

    path: Path
    config: TrainConfig[Any]
    learner: Any
    progress: Any = None
    num_trained: int = 0
    is_env_owned: bool = True
    is_teacher: bool = False
    _env: Any = None

    @property
    def env(self) -> Any:
        """The environment of the config; built when it is first used."""
        if self._env is None:
            self._env = build_env(self.config, run=self.path)
            if line := provenance.describe_version_change(self.path, self._env.spec):
                warn(line)
            for line in provenance.describe_edits(self.path, hash_sources(self.config.env)):
                warn(line)
        return self._env

    @property
    def output(self) -> Path:
        """Folder of new files: the run folder, or one in `runs/` for a published policy."""
        return published.output_folder(self.path)

    @property
    def spec(self) -> Any:
        """Name and sizes of the environment; from the run folder if it was not built."""
        recorded = read_spec(self.path) if self._env is None else None
        return recorded or self.env.spec

    def start(
        self,
        num_tasks: int = 1,
        num_robots: int = 1,
        *,
        deterministic: bool | None = None,
        seed: int = 0,
        raw: bool = False,
    ) -> Session:
        """Starts a session: the policy on robots, without environment and simulator.

        Args:
            num_tasks: N.
            num_robots: Robots of each task.
            deterministic: Send the mode of the policy; None as soon as it can (see `Session`).
            seed: Of the action noise.
            raw: Return the policy's outputs, as environments of metarl take them, in place of the
                robot's controls.

        Raises:
            ConfigError: A number is not positive or not whole, or the policy is a set of policies
                from scratch.
        """
        from metarl.deployment.session import Session
        from metarl.sampling.sampler import Key

        self._require_one_policy()
        require_seed(seed)
        options: dict[str, Any] = {"deterministic": deterministic, "raw": raw}
        key = Key(seed, "session", 0)
        session = Session(self.learner, self.spec, num_tasks, num_robots, key=key, **options)
        session.origin = self.origin
        return session

    def origin(self) -> Origin:
        """Returns what exported files record about the policy.

        The gains of the servos, and what older runs did not record, are read from the environment
        if it can be built here and has the same version.

        Raises:
            ConfigError: The policy is a set of policies from scratch.
        """
        from metarl.deployment.export.metadata import Origin

        self._require_one_policy()
        spec, gains = read_spec(self.path), ()
        try:
            if spec is None or spec.version == self.env.spec.version:
                spec = self.env.spec
                gains = self.env.servo_gains if supports(self.env, HasServos) else ()
        except MetarlError as error:
            if spec is None:
                raise
            warn(f"exported without gains: {error}")
        done = (self.progress.iteration, self.progress.env_steps) if self.progress else (0, 0)
        return Origin(self.path, self.config, self.learner, spec, *done, gains)

    def predict(
        self,
        obs: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        *,
        reward: Any = None,
        raw: bool = False,
    ) -> tuple[Any, Any]:
        """Returns controls and state, in the form of Stable-Baselines3.

        See `metarl.deployment.predictor.predict`.

        Raises:
            ConfigError: An argument does not fit, the reward is missing, or the policy is a set of
                policies from scratch.
        """
        from metarl.deployment.predictor import predict

        self._require_one_policy()
        options: dict[str, Any] = {"deterministic": deterministic, "raw": raw, "reward": reward}
        return predict(self.learner, self.spec, obs, state, episode_start, **options)

    def _require_one_policy(self) -> None:
        if is_baseline(self.config, "scratch"):
            hint = "one policy for each task; train with --learner.mode multi-task or oracle"
            raise ConfigError(f"{self.path}: mode scratch has {hint}")

    def close(self) -> None:
        """Closes the environment, if it was built here."""
        if self._env is not None and self.is_env_owned:
            self._env.close()
            self._env = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
