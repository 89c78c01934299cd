"""Latency: medians of interleaved runs in one process.

Each round runs every model once, A B C A B C: whatever slows the machine down for a while slows all of them,
and the ratio is taken within each round before the median over rounds.
"""

import random
import time
from collections.abc import Mapping, Sequence

import numpy as np

from qtool.core.progress import Progress
from qtool.core.records.evaluation import Latency
from qtool.runtime.session import Session

WARMUP_ROUNDS = 10


def measure_latency(
    sessions: Sequence[Session], inputs: Mapping[str, np.ndarray], runs: int, progress: Progress
) -> tuple[Latency, ...]:
    """Time all sessions side by side; return one `Latency` a session, in their order.

    Args:
        sessions: the first is the one that the speed-ups are against.
        inputs: one batch, which every run takes.
        runs: the rounds that count, after `WARMUP_ROUNDS` that do not.
        progress: told of every round.

    Raises:
        DataError: a model does not run on `inputs`.
    """
    times: list[list[int]] = [[] for _ in sessions]
    step = "timing"
    for done in range(WARMUP_ROUNDS + runs):
        for session, taken in zip(sessions, times, strict=True):
            begin = time.perf_counter_ns()
            session.run_list(inputs, session.outputs)
            taken.append(time.perf_counter_ns() - begin)
        progress(step, done + 1, WARMUP_ROUNDS + runs)
    return summarize_rounds([taken[WARMUP_ROUNDS:] for taken in times])


def measure_speed(
    sessions: Sequence[Session], examples: Sequence[Mapping[str, np.ndarray]], seconds: float, rounds: int
) -> tuple[tuple[Latency, ...], int]:
    """Time sessions of one thread side by side, each round on the next example, and in another order.

    The time is the processor's, so that what else runs on the machine counts little.

    Args:
        sessions: the first is the one that the speed-ups are against.
        examples: batches of inputs.
        seconds: after as long, the last round begins; there are three at least.
        rounds: the most that count.

    Returns:
        One `Latency` a session, in their order, and how many rounds there were.

    Raises:
        DataError: a model does not run on an example.
    """
    times: list[list[int]] = [[] for _ in sessions]
    order, numbers = random.Random(0), list(range(len(sessions)))
    for session in sessions:
        session.run_list(examples[0], session.outputs)
    end = time.perf_counter() + seconds
    while len(times[0]) < 3 or (len(times[0]) < rounds and time.perf_counter() < end):
        example = examples[len(times[0]) % len(examples)]
        order.shuffle(numbers)
        for number in numbers:
            begin = time.thread_time_ns()
            sessions[number].run_list(example, sessions[number].outputs)
            times[number].append(time.thread_time_ns() - begin)
    return summarize_rounds(times), len(times[0])


def summarize_rounds(times: Sequence[Sequence[int]]) -> tuple[Latency, ...]:
    """Return the medians of nanoseconds [model][round], and of the rounds' ratios to the first model."""
    return tuple(
        Latency(
            median_ms=float(np.median(taken)) / 1e6,
            speedup=float(np.median([first / max(own, 1) for first, own in zip(times[0], taken, strict=True)])),
        )
        for taken in times
    )
