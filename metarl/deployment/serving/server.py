"""The server: answers the messages of one robot with a session of its policy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

import numpy as np

from metarl.core.env import EnvSpec
from metarl.core.errors import MetarlError
from metarl.core.messages import notify
from metarl.deployment.serving import json_lines
from metarl.deployment.serving.limits import Limits, SentControls, Watchdog
from metarl.deployment.serving.log import Latencies, Log
from metarl.deployment.serving.messages import Counters, Flag, Refused, Reply, Request, Verb
from metarl.deployment.serving.policies import ServedPolicy
from metarl.deployment.serving.transports import Transport
from metarl.deployment.serving.wire import SEQUENCES, WireFormat
from metarl.deployment.signals import NoActionNoise

RELEASE = 10.0
"""Silence after which another peer may take the place of the robot [s]."""

_POLL = 0.2
"""Largest wait for a message, after which the server checks whether to end [s]."""


def say(text: str) -> None:
    """Prints a line for people; the standard output may hold replies."""
    notify(text)


def wire_format(spec: EnvSpec) -> WireFormat:
    """Returns the binary form of the messages of a policy."""
    return WireFormat(spec.obs_size, 1 if spec.discrete else spec.action_size)


@dataclass
class _Episode:
    """Numbers of the present episode.

    Attributes:
        steps: Observations that were answered with controls.
        total: Sum of the finite rewards.
        limited: Controls that the limits changed.
        silences: Times that the watchdog found the robot silent.
        unusable: Those of the session when the episode began.
    """

    steps: int = 0
    total: float = 0.0
    limited: int = 0
    silences: int = 0
    unusable: int = 0


class Server:
    """Serves a policy to one robot.

    Args:
        policy: The policy.
        transport: Brings the messages.
        limits: Limits on the controls.
        watchdog: Silence in mid-episode after which the robot is sent the safe control [s].
        log: Records.
        clock: Monotonic time [s].
    """

    def __init__(
        self,
        policy: ServedPolicy,
        transport: Transport,
        limits: Limits,
        *,
        watchdog: float,
        log: Log,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._policy, self._transport, self._log = policy, transport, log
        self._format, self._clock = wire_format(policy.spec), clock
        self._dt = policy.spec.dt
        self._controls = SentControls(limits, self._dt)
        self.latencies, self._watchdog = Latencies(), Watchdog(watchdog)
        self.steps = self.episodes = self.silences = 0
        self._is_stopped = False
        self._peer: Hashable | None = None
        self._heard, self._is_json = -math.inf, False
        self._last: Reply | None = None
        self._begin()

    # --- the loop ---------------------------------------------------------------------------------

    def describe(self) -> str:
        """Returns where and what it serves, in one line."""
        spec, form = self._policy.spec, self._format
        sizes = f"requests of {form.request_size} bytes, replies of {form.reply_size}"
        return (
            f"on {self._transport.name}: {spec.obs_size} numbers in, "
            f"{form.num_controls} controls out, {1.0 / spec.dt:g} Hz; {sizes}"
        )

    def stop(self) -> None:
        """Ends `run` after the present message; may be called by a signal handler."""
        self._is_stopped = True

    def run(self) -> None:
        """Serves until `stop` is called or no message can come any more.

        A robot in mid-episode gets a last safe control, also if an exception ends the server.
        """
        try:
            while not (self._is_stopped or self._transport.is_over):
                self.poll()
        finally:
            if self._watchdog.wait(self._clock()) < math.inf:
                self._send_safe(Flag.CLOSED)

    def poll(self) -> None:
        """Waits for a message, for a short time, and answers it; guards the silence."""
        wait = min(_POLL, self._watchdog.wait(self._clock()))
        arrived = self._transport.receive(wait)
        if arrived is not None:
            self._receive(*arrived)
        self._guard()

    def _guard(self) -> None:
        """Sends the safe control if the robot is silent in mid-episode."""
        was_silent, now = self._watchdog.is_silent, self._clock()
        if not self._watchdog.expire(now):
            return
        if not was_silent:
            self.silences += 1
            self._episode.silences += 1
            seconds = self._watchdog.limit
            self._log.write("silence", episode=self._done, step=self._episode.steps)
            say(f"no observation for {seconds:g} s in step {self._episode.steps}: safe control")
        if not self._send_safe(Flag.WATCHDOG):
            self._watchdog.hasten(now, self._dt)

    def _send_safe(self, mark: Flag) -> bool:
        """Sends the safe control, or as much of the way there as the rate allows.

        Returns:
            The safe control is reached, or there is no robot.
        """
        if self._peer is None:
            return True
        controls, flags = self._controls.send_home()
        sequence = self._last.sequence if self._last else 0
        reply = Reply(Verb.ACT, sequence, controls, flags | mark, self._count())
        self._transport.send(self._encode(reply), self._peer)
        return Flag.LIMITED not in flags

    def _receive(self, message: bytes, peer: Hashable) -> None:
        """Answers a message, or refuses it: it gets no answer and changes nothing but a counter."""
        arrived = self._clock()
        if not message:
            self._leave(peer)
            return
        try:
            is_json = message[:1] == b"{" or self._transport.is_text
            decode = json_lines.decode_request if is_json else self._format.decode_request
            request = decode(message)
            self._admit(peer, arrived)
            self._is_json = is_json
            sequence = self._number(request)
        except Refused as reason:
            if self._log.refuse(str(reason)):
                say(f"refused a message: {reason} (more of them are counted only)")
            if str(reason) != _OUTDATED:
                self._transport.drop(peer)
            return
        self._heard = arrived
        if self._last and (self._last.sequence, self._last.verb) == (sequence, request.verb):
            self._repeat(self._last, arrived)
        else:
            self._answer(request, sequence, arrived)

    def _repeat(self, reply: Reply, arrived: float) -> None:
        """Sends a reply again; limits its controls anew, as the watchdog may have sent others."""
        if reply.verb == Verb.ACT and self._episode.steps:
            self._feed(arrived)
        controls, limited = self._controls.send(reply.controls)
        again = replace(reply, controls=controls, flags=reply.flags | limited)
        self._transport.send(self._encode(again), self._peer)

    def _admit(self, peer: Hashable, now: float) -> None:
        """Accepts the first peer, and another one after a long silence.

        Raises:
            Refused: The server has another peer.
        """
        if peer == self._peer:
            return
        if self._peer is not None and now - self._heard < RELEASE:
            raise Refused("another peer")
        self._peer, self._last = peer, None

    def _number(self, request: Request) -> int:
        """Returns the sequence number of a request.

        Raises:
            Refused: A later request was answered before. BEGIN may have any number, because the
                robot's program may have been restarted.
        """
        last = self._last.sequence if self._last else 0
        if request.sequence is None:
            return (last + 1) % SEQUENCES
        ahead = (request.sequence - last) % SEQUENCES
        if self._last and ahead >= SEQUENCES // 2 and request.verb != Verb.BEGIN:
            raise Refused(_OUTDATED)
        return request.sequence

    def _leave(self, peer: Hashable) -> None:
        """Releases a peer; its episode and its memory remain for the next one."""
        if peer == self._peer:
            self._peer = self._last = None

    def _answer(self, request: Request, sequence: int, arrived: float) -> None:
        """Carries a request out, and sends and keeps the reply."""
        acted, error = None, ""
        try:
            if request.verb == Verb.ACT:
                acted = self._act(request)
            else:
                self._carry_out(request)
        except Exception as problem:  # whatever a policy does, its robot must get a safe answer
            error = " ".join(f"{problem}".split()) or type(problem).__name__
            if not isinstance(problem, MetarlError):
                error = f"{type(problem).__name__}: {error}"
            if self._log.refuse(f"{request.verb.name.lower()} failed"):
                say(f"{request.verb.name.lower()}: {error}")
        controls, flags = acted or self._controls.send_home()
        flags |= Flag.ERROR * bool(error)
        self._last = Reply(request.verb, sequence, controls, flags, self._count(), error)
        self._transport.send(self._encode(self._last), self._peer)
        if request.verb == Verb.ACT:
            self.latencies.add(self._clock() - arrived)
            if self._episode.steps:
                self._feed(self._clock())  # the robot's time begins with the reply
        if request.verb == Verb.STOP:
            self._record_episode("stopped")
            self._begin()
            self._controls.restart()
            self._peer = self._last = None

    def _encode(self, reply: Reply) -> bytes:
        return json_lines.encode_reply(reply) if self._is_json else self._format.encode_reply(reply)

    # --- the five verbs ---------------------------------------------------------------------------

    def _begin(self) -> None:
        self._session = self._policy.start()
        self._adaptations = self._done = 0
        self._new_episode()

    def _new_episode(self) -> None:
        self._episode = _Episode(unusable=self._session.num_unusable)
        self._watchdog.pause()

    def _act(self, request: Request) -> tuple[np.ndarray, Flag]:
        """Returns the controls for an observation, after the limits, and their marks."""
        before = self._session.num_unusable
        chosen = self._session.act(request.obs, request.reward, request.done)
        controls = np.atleast_1d(chosen)
        may_wait = request.done or self._session.num_unusable > before
        is_safe = may_wait and bool((controls == self._controls.home).all())
        if not np.isfinite(controls).all():
            raise FloatingPointError("the policy's controls are not finite")
        controls, limited = self._controls.send(controls)
        self._episode.steps += 1
        self.steps += 1
        self._episode.limited += bool(limited)
        self._add_reward(request.reward)
        return controls, Flag(Flag.SAFE * is_safe) | limited

    def _carry_out(self, request: Request) -> None:
        """Carries out a verb that returns no controls of the policy."""
        if request.verb == Verb.BEGIN:
            self._record_episode("aborted")
            self._begin()
            self._log.write("begin")
        elif request.verb == Verb.END:
            self._session.end_episode(request.reward, request.done, request.obs)
            self._add_reward(request.reward)
            self._record_episode("fall" if request.done else "end")
            self._done += 1
            self._new_episode()
        elif request.verb == Verb.ADAPT:
            try:
                self._session.adapt()
            except NoActionNoise as error:
                raise NoActionNoise("metarl serve --explore draws it in all episodes") from error
            self._adaptations += 1
            self._log.write("adapt", number=self._adaptations)

    def _feed(self, now: float) -> None:
        silence = self._watchdog.feed(now)
        if silence is not None:
            self._log.write("heard", silence=round(silence, 4))
            say(f"heard again after {silence:.2f} s")

    def _add_reward(self, reward: float | None) -> None:
        if reward is not None and math.isfinite(reward):
            self._episode.total += reward

    # --- records ----------------------------------------------------------------------------------

    def _count(self) -> Counters:
        return Counters(
            self._done,
            self._episode.steps,
            self._adaptations,
            self._session.num_unusable,
            self._log.refused.total(),
            self.silences,
        )

    def _record_episode(self, end: str) -> None:
        """Writes the numbers of an episode that has steps."""
        episode = self._episode
        if not episode.steps:
            return
        self.episodes += 1
        self._log.write(
            "episode",
            number=self._done,
            end=end,
            steps=episode.steps,
            **{"return": episode.total},
            unusable=self._session.num_unusable - episode.unusable,
            limited=episode.limited,
            silences=episode.silences,
        )

    def finish(self) -> str:
        """Writes the last records; returns one line about what was served."""
        self._record_episode("closed")
        latency, refused = self.latencies.summary(), self._log.refused.total()
        self._log.write(
            "summary",
            steps=self.steps,
            episodes=self.episodes,
            silences=self.silences,
            refused=dict(self._log.refused),
            latency_ms={name: round(value, 4) for name, value in latency.items()},
        )
        return (
            f"served {self.steps:,} steps in {self.episodes:,} episodes; latency "
            f"{latency['median']:.2f} ms, 99.9 % within {latency['p99.9']:.2f}, largest "
            f"{latency['max']:.2f}; {self.silences:,} silences, {refused:,} refused"
        )


_OUTDATED = "an earlier number"
