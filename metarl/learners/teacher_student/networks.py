"""The networks of teacher and student, which share an actor."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from metarl.core.rollout import Params
from metarl.learners.teacher_student.config import TeacherStudentConfig
from metarl.networks.actor_critic import Architecture, draw_parameters
from metarl.networks.distributions import Distribution
from metarl.networks.layers import Linear, Tanh
from metarl.networks.memories.memory import Memory

Phase = Literal["teacher", "student", "fine-tuning"]
"""What an update trains: the teacher by PPO, the student by imitation, the student by PPO."""

STUDENT = ("memory.", "guess.")
"""Beginnings of the names of the student's own parameters; the others are the teacher's."""


class TeacherStudentNetwork(nn.Module):
    """An actor and a critic that read an observation and Z latent numbers about the task.

    The teacher encodes them from the task, and the student guesses them from its memory.

    Args:
        config: Sizes.
        distribution: Over actions, given the actor's output.
        obs_size: S.
        action_size: A.
        code_size: C, inputs that describe the task.
    """

    def __init__(
        self,
        config: TeacherStudentConfig,
        distribution: Distribution,
        obs_size: int,
        action_size: int,
        code_size: int,
    ):
        super().__init__()
        hidden, latent = config.hidden_size, config.latent_size
        self.encoder = nn.Sequential(
            Linear(code_size, hidden), Tanh(), Linear(hidden, latent), Tanh()
        )
        self.actor = _network(obs_size + latent, hidden, action_size)
        self.critic = _network(obs_size + latent, hidden, 1)
        architecture = Architecture(config.memory, config.memory_size, hidden)
        self.memory: Memory = architecture.build_memory(obs_size + action_size + 2)
        self.guess = nn.Sequential(Linear(config.memory_size, latent), Tanh())
        for name, value in distribution.initial(action_size).items():
            self.register_parameter(name, nn.Parameter(value))

    def initialise(self, rng: np.random.Generator) -> None:
        """Draws the first parameters, see `draw_parameters`."""
        draw_parameters(self, self.memory, rng, last="actor.4.weight")

    def output(self, obs: Tensor, latent: Tensor) -> Tensor:
        """Maps scaled obs (..., S) and latent (..., Z) to the distribution's inputs (..., A)."""
        return self.actor(torch.cat([obs, latent], dim=-1))

    def value(self, obs: Tensor, latent: Tensor) -> Tensor:
        """Maps scaled obs (..., S) and latent (..., Z) to scaled values (...)."""
        return self.critic(torch.cat([obs, latent], dim=-1)).squeeze(-1)

    def parts(self) -> dict[Phase, list[nn.Parameter]]:
        """Returns the parameters that learn in each phase."""
        named = list(self.named_parameters())
        return {
            "teacher": [value for name, value in named if not name.startswith(STUDENT)],
            "student": [value for name, value in named if name.startswith(STUDENT)],
            "fine-tuning": [value for name, value in named if not name.startswith("encoder.")],
        }

    def distribution_params(self) -> Params:
        """Returns the distribution's own parameters, by name: the only ones of no submodule."""
        return dict(self.named_parameters(recurse=False))


def _network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    layers = Linear(inputs, hidden), Tanh(), Linear(hidden, hidden), Tanh()
    return nn.Sequential(*layers, Linear(hidden, outputs))
