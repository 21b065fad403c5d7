"""A row of the CSV of a suite."""

from metarl.suites.records import Row

ROW = Row(
    suite="s",
    env="ant-dir",
    env_version=2,
    algo="rl2",
    label='rl2, "quoted"',
    role="learner",
    seed=1,
    rollout=0,
    iterations=3,
    steps=10_000_000,
    hours=1 / 3,
    threads=1,
    machine="",
    commit="",
    held_out=True,
    num_tasks=2,
    episodes_per_task=4,
    mean=0.1 + 0.2,
    ci95_low=None,
    ci95_high=1e-17,
    mean_without_noise=None,
    references={"stand still": 200.0},
    per_task=[1 / 3, 2 / 3],
    per_task_without_noise=[],
    task_numbers=[0, 0],
)
