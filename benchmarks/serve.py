"""Latency of a served policy: `python -m benchmarks.serve [--json FILE] [--quick]`.

`metarl serve` runs in a process of its own. This one sends observations over UDP and over a Unix
socket on the loopback address, the next one as soon as a reply has come, and compares every reply
with a session in this process: nothing may be lost, repeated or out of order.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import metarl
from benchmarks.side_by_side import describe, machine, parser, table, write_json
from metarl.core.rng import stream
from metarl.deployment.serving.client import Client

POLICY = "pretrained/quadruped-command"
EPISODE = 1000
"""Steps between two ends of an episode."""


@dataclass(frozen=True)
class Result:
    """Measurement of one transport.

    Attributes:
        transport: Its name.
        steps: Observations sent.
        different: Replies whose controls, or whose number of steps, differ from the session's.
        repeated: Requests that were sent again.
        rate: Steps per second.
        median: Median of the time from sending an observation to having the controls [ms].
        p999: Its 99.9th percentile [ms].
        longest: Its maximum [ms].
        inside: Latencies in the server, as its log has them [ms].
    """

    transport: str
    steps: int
    different: int
    repeated: int
    rate: float
    median: float
    p999: float
    longest: float
    inside: str


@contextmanager
def serve(transport: str, folder: Path) -> Generator[tuple[subprocess.Popen[str], str]]:
    """Starts a server; yields the process and its first line, and stops it."""
    flags = ["--port", "0"] if transport == "udp" else ["--path", str(folder / "socket")]
    command = [sys.executable, "-m", "metarl", "serve", POLICY, "--transport", transport, *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, "")
            yield process, next(line for line in lines if "serving" in line)
        finally:
            process.terminate()


def measure(transport: str, num_steps: int, policy: metarl.TrainedPolicy, folder: Path) -> Result:
    """Plays episodes of random observations."""
    rng, size = stream(0, "observations"), policy.spec.obs_size
    obs = rng.standard_normal((num_steps, size)).astype(np.float32)
    rewards = rng.uniform(size=num_steps).astype(np.float32)
    controls = np.empty((num_steps, policy.spec.action_size), dtype=np.float32)
    seconds, counted = np.empty(num_steps), np.empty(num_steps, dtype=int)
    with serve(transport, folder) as (process, line):
        port = re.search(r"port (\d+)", line)
        address = ("127.0.0.1", int(port[1])) if port else str(folder / "socket")
        with closing(Client(address, size, policy.spec.action_size)) as client:
            client.begin()
            begun = time.perf_counter()
            for t in range(num_steps):
                sent = time.perf_counter()
                reply = client.act(obs[t], rewards[t] if t % EPISODE else None)
                seconds[t] = time.perf_counter() - sent
                controls[t], counted[t] = reply.controls, reply.counters.steps
                if t % EPISODE == EPISODE - 1:
                    client.end_episode(rewards[t])
            rate = num_steps / (time.perf_counter() - begun)
        process.terminate()
        assert process.stderr is not None
        inside = next(line for line in process.stderr if "latency" in line)
    wrong = (controls != replay(policy, obs, rewards)).any(axis=1)
    wrong |= counted != np.arange(num_steps) % EPISODE + 1
    quantiles = (1e3 * np.quantile(seconds, (0.5, 0.999, 1.0))).tolist()
    found = inside.partition("latency ")[2].partition(";")[0]
    return Result(
        transport, num_steps, int(wrong.sum()), client.num_repeated, rate, *quantiles, inside=found
    )


def replay(policy: metarl.TrainedPolicy, obs: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """Returns the controls of a session in this process."""
    session, controls = policy.start(), []
    for t in range(len(obs)):
        controls.append(session.act(obs[t], rewards[t] if t % EPISODE else None))
        if t % EPISODE == EPISODE - 1:
            session.end_episode(rewards[t])
    return np.array(controls, dtype=np.float32)


def main() -> None:
    """Reads the command line."""
    options = parser(__doc__).parse_args()
    num_steps = 500 if options.quick else 100_000
    computer = machine(("torch", "numpy"))
    print(describe(computer), f"\n\n{num_steps:,} steps of {POLICY}, times in ms\n")
    with tempfile.TemporaryDirectory() as folder, metarl.load(POLICY, threads=1) as policy:
        results = [measure(kind, num_steps, policy, Path(folder)) for kind in ("udp", "unix")]
    header = ("transport", "steps/s", "median", "99.9 %", "largest", "sent again", "different")
    rows = [
        [r.transport, f"{r.rate:,.0f}", f"{r.median:.3f}", f"{r.p999:.3f}", f"{r.longest:.1f}"]
        + [str(r.repeated), str(r.different)]
        for r in results
    ]
    print(table(header, rows))
    print("\n".join(f"inside the server, {r.transport}: {r.inside}" for r in results))
    write_json(options.json, {"machine": computer, "results": [asdict(r) for r in results]})


if __name__ == "__main__":
    main()
