"""Latency: medians of interleaved runs in one process.

Each round runs every model once, in another order: whatever slows the machine down for a while slows all of them. The
speed-up is float's median over the model's own, which are both shown; where the ratios of single rounds lie so far
apart that it says nothing, that is said.
"""

import math
import random
import time
from collections.abc import Mapping, Sequence

import numpy as np

from qtool.core.progress import Progress
from qtool.core.records.evaluation import Latency
from qtool.runtime.session import Session

WARMUP_ROUNDS = 10
_NOISY = 1.15
"""The ends of where the median lies may be so far apart."""


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
    order, numbers = random.Random(0), list(range(len(sessions)))
    step = "timing"
    for done in range(WARMUP_ROUNDS + runs):
        order.shuffle(numbers)
        for number in numbers:
            begin = time.perf_counter_ns()
            sessions[number].run_list(inputs, sessions[number].outputs)
            times[number].append(time.perf_counter_ns() - begin)
        progress(step, done + 1, WARMUP_ROUNDS + runs)
    return summarize_rounds([taken[WARMUP_ROUNDS:] for taken in times])


def measure_speed(
    sessions: Sequence[Session],
    examples: Sequence[Mapping[str, np.ndarray]],
    seconds: float,
    rounds: int,
    *,
    feeds: Sequence[Sequence[Mapping[str, np.ndarray]]] | None = None,
) -> tuple[tuple[Latency, ...], int]:
    """Time sessions of one thread side by side, each round on the next example, and in another order.

    The time is the processor's, so that what else runs on the machine counts little.

    Args:
        sessions: the first is the one that the speed-ups are against.
        examples: batches of inputs.
        seconds: after as long, the last round begins; there are three at least.
        rounds: the most that count.
        feeds: of each session, where they call their inputs otherwise; the examples by default.

    Returns:
        One `Latency` a session, in their order, and how many rounds there were.

    Raises:
        DataError: a model does not run on an example.
    """
    times: list[list[int]] = [[] for _ in sessions]
    order, numbers = random.Random(0), list(range(len(sessions)))
    fed = [examples] * len(sessions) if feeds is None else feeds
    for session, own in zip(sessions, fed, strict=True):
        session.run_list(own[0], session.outputs)
    end = time.perf_counter() + seconds
    while len(times[0]) < 3 or (len(times[0]) < rounds and time.perf_counter() < end):
        turn = len(times[0]) % len(examples)
        order.shuffle(numbers)
        for number in numbers:
            example = fed[number][turn]
            begin = time.thread_time_ns()
            sessions[number].run_list(example, sessions[number].outputs)
            times[number].append(time.thread_time_ns() - begin)
    return summarize_rounds(times), len(times[0])


def summarize_rounds(times: Sequence[Sequence[int]]) -> tuple[Latency, ...]:
    """Return what nanoseconds [model][round] say of each model; the speed-ups are against the first."""
    return tuple(_summary(times[0], taken) for taken in times)


def _summary(first: Sequence[int], taken: Sequence[int]) -> Latency:
    low, median, high = (float(ms) / 1e6 for ms in np.percentile(taken, (10, 50, 90)))
    own = taken is not first
    speedup = float(np.median(first)) / max(float(np.median(taken)), 1.0) if own else 1.0
    ratios = [one / max(other, 1) for one, other in zip(first, taken, strict=True)] if own else list(taken)
    least, most = _median_between(ratios)
    rough = most > _NOISY * least
    return Latency(median, speedup, low, high, rough and (not own or least < 1.0 < most), rough)


def _median_between(figures: Sequence[float]) -> tuple[float, float]:
    """The order statistics that hold the median in 95 of 100 cases."""
    ordered = sorted(figures)
    skipped = max(math.floor(len(ordered) / 2 - 0.98 * math.sqrt(len(ordered))), 0)
    return ordered[skipped], ordered[-1 - skipped]
