"""Settings of small trainings with every learner and every memory."""

SMALL = {"num_tasks": 2, "num_episodes": 2, "num_adaptations": 1}

RUNS = {
    "maml-trpo": {"learner": {"hidden_sizes": [8], "normalize_obs": True}},
    **{
        f"rl2, {memory}": {"learner": {"memory": memory, "memory_size": 8}}
        for memory in ("gru", "lstm", "mingru", "transformer")
    },
    "rl2, mann": {"learner": {"memory": "mann", "memory_size": 8, "epochs": 1, "minibatches": 1}},
    "rl2, hypernetwork": {"learner": {"actor": "hypernetwork", "memory_size": 8}},
    "teacher-student": {"learner": {"memory_size": 8, "teacher_updates": 1}},
    "varibad": {"learner": {"memory_size": 8, "encoder_updates": 1}},
    "metric": {"learner": {"hidden_size": 8, "encoder_steps": 2}},
    "pearl": {"learner": {"hidden_sizes": [8], "encoder_sizes": [8], "update_ratio": 0.005}},
    "sb3-ppo": {},
    "sb3-ppo, oracle": {"learner": {"mode": "oracle"}},
    "sb3-trpo": {},
    "sb3-rl2": {},
}

MORE_RUNS = {
    "rl2, window": {"learner": {"memory": "transformer", "memory_size": 8, "attention_window": 7}},
    "rl2, lstm hypernetwork": {
        "learner": {"memory": "lstm", "actor": "hypernetwork", "memory_size": 8}
    },
    "teacher-student, lstm": {
        "learner": {"memory": "lstm", "memory_size": 8, "teacher_updates": 1}
    },
    "varibad, transformer": {
        "learner": {"memory": "transformer", "memory_size": 8, "transition_weight": 1.0}
    },
    "maml-trpo, silu": {"learner": {"hidden_sizes": [8], "activation": "silu", "layer_norm": True}},
    "pearl, narrow": {
        "learner": {
            "hidden_sizes": [8],
            "encoder_sizes": [8],
            "update_ratio": 0.005,
            "encode_next_obs": False,
            "action_limit": 0.5,
            "reward_scale": 2.0,
        }
    },
    "pearl, step": {
        "learner": {
            "hidden_sizes": [8],
            "encoder_sizes": [8],
            "update_ratio": 0.005,
            "guess": "step",
            "decoder_weight": 1.0,
        }
    },
    "sb3-ppo, normalized": {"learner": {"normalize": True}},
    **{
        name: {"learner": {"hidden_sizes": [8]}}
        for name in "fomaml reptile maml-ppo promp e-maml meta-sgd anil cavia leo meta-lstm".split()
    },
}

EPISODE_RUNS = {
    "bmaml": {"learner": {"hidden_sizes": [8], "normalize_obs": True}},
    "gp": {"learner": {"hidden_size": 8, "choice": "thompson"}},
}
"""Learners that play every episode with another policy; a file has that of one episode."""

WITHOUT_GRAPH = {
    "grbal": {
        "learner": {"hidden_sizes": [8], "gradient_steps": 2, "candidates": 8, "plan_steps": 3}
    },
}
"""Learners that play sessions and cannot be exported."""
