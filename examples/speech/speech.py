"""Spoken digits made of formants: the data of the recognisers of this folder, with nothing but numpy.

    qtool calibrate --pipeline ctc.toml --data speech.py:calibration
    qtool eval --pipeline ctc.toml --data speech.py:evaluation
    qtool calibrate --pipeline transducer.toml --data speech.py:calibration_features
    qtool eval --pipeline transducer.toml --data speech.py:evaluation_features

A speaker says three to eight digits: harmonics of a pitch under three resonances for what is voiced, coloured noise for
what hisses. Pitch, length of the vocal tract, speed, loudness, gaps and noise are drawn; seeded, so that the same
numbers come each time (`RandomState`, whose draws numpy keeps as they are).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

RATE = 8000
WINDOW, HOP, BANDS = 128, 64, 24
STEP = 40
"""Samples between two points of the tracks that a word is drawn from."""
QUIETEST = 1e-5
"""What is added to the power of a band in front of the logarithm."""
CALIBRATION, EVALUATION, OTHERS = (101, 100), (102, 400), (103, 800)
"""Seed and number of utterances."""


class Phone(NamedTuple):
    """A sound: milliseconds, three formants, how loud it is voiced, how loud it hisses and around which frequency."""

    length: float
    formants: tuple[float, float, float]
    voiced: float
    hiss: float = 0.0
    centre: float = 3000.0


IY, IH = Phone(110, (300, 2250, 3000), 1.0), Phone(80, (400, 1950, 2550), 1.0)
EH, AH = Phone(90, (550, 1800, 2500), 1.0), Phone(90, (650, 1200, 2400), 1.0)
AO, UW = Phone(120, (590, 900, 2400), 1.0), Phone(140, (320, 900, 2250), 0.9)
OW, AA = Phone(120, (480, 850, 2400), 1.0), Phone(90, (720, 1250, 2500), 1.0)
R, W, N = Phone(60, (400, 1200, 1600), 0.7), Phone(60, (320, 700, 2200), 0.6), Phone(70, (280, 1400, 2300), 0.35)
V, Z = Phone(60, (300, 1200, 2200), 0.35, 0.1, 2800), Phone(80, (300, 1500, 2400), 0.25, 0.3, 3600)
F, S = Phone(90, (300, 1200, 2200), 0.0, 0.15, 2900), Phone(100, (300, 1600, 2500), 0.0, 0.4, 3700)
TH, CLOSED = Phone(80, (300, 1400, 2300), 0.0, 0.1, 3200), Phone(50, (300, 1600, 2500), 0.0)
T, K = Phone(30, (300, 1700, 2600), 0.0, 0.4, 3400), Phone(30, (300, 1800, 2300), 0.0, 0.35, 1900)
DIGITS = {
    "zero": (Z, IH, R, OW),
    "one": (W, AH, N),
    "two": (CLOSED, T, UW),
    "three": (TH, R, IY),
    "four": (F, AO, R),
    "five": (F, AA, IH, V),
    "six": (S, IH, CLOSED, K, S),
    "seven": (S, EH, V, AH, N),
    "eight": (EH, IY, CLOSED, T),
    "nine": (N, AA, IH, N),
}
NAMES = list(DIGITS)


class Speaker(NamedTuple):
    """A voice: pitch in hertz, factors of all formants and of all lengths, loudness."""

    pitch: float
    tract: float
    slow: float
    gain: float


def utterance(rng: np.random.RandomState) -> tuple[np.ndarray, list[int]]:
    """Return what a speaker says, float32 in -1..1 without noise, and the digits."""
    speaker = Speaker(rng.uniform(90, 250), rng.uniform(0.85, 1.2), rng.uniform(0.7, 1.35), rng.uniform(0.15, 0.7))
    digits = [int(digit) for digit in rng.randint(0, 10, rng.randint(3, 9))]
    pieces = [_gap(rng, 100, 300)]
    for digit in digits:
        pieces += [_word(rng, speaker, DIGITS[NAMES[digit]]), _gap(rng, 10, 200)]
    pieces.append(_gap(rng, 150, 250))
    return np.concatenate(pieces), digits


def noisy(rng: np.random.RandomState, clean: np.ndarray, length: int) -> np.ndarray:
    """Return speech with silence behind it and noise, whose colour and loudness are drawn, over all of it."""
    padded = np.pad(clean, (0, length - len(clean)))
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum /= np.maximum(np.arange(len(spectrum)) * RATE / length, 50.0) ** rng.uniform(0, 0.8)
    noise = np.fft.irfft(spectrum, length)
    decibels = rng.uniform(*NOISE)
    loud = np.sqrt(np.mean(clean**2)) / np.sqrt(np.mean(noise**2)) * 10 ** (-decibels / 20)
    return np.clip(padded + noise * loud, -1, 1).astype(np.float32)


NOISE = (-8.0, 12.0)
"""Decibels of speech over noise."""


def filters() -> tuple[np.ndarray, np.ndarray]:
    """Return the windowed Fourier transform, float32 [2 * bins, window], cosines first, and bands [bands, bins]."""
    bins = np.arange(1, WINDOW // 2 + 1)
    turns = 2 * np.pi * bins[:, None] * np.arange(WINDOW) / WINDOW
    transform = np.concatenate([np.cos(turns), np.sin(turns)]) * np.hanning(WINDOW + 1)[:-1]
    mel = np.linspace(*(1127 * np.log1p(np.array([80.0, 3900.0]) / 700)), BANDS + 2)
    edges = 700 * np.expm1(mel / 1127)
    centred = bins * RATE / WINDOW
    rising = (centred - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - centred) / (edges[2:] - edges[1:-1])[:, None]
    bands = np.maximum(np.minimum(rising, falling), 0)
    # a narrow band may lie between two bins
    nearest = np.abs(centred - edges[1:-1, None]).argmin(axis=1)
    bands[np.arange(BANDS), nearest] = np.maximum(bands[np.arange(BANDS), nearest], 0.5)
    return transform.astype(np.float32), bands.astype(np.float32)


def features(audio: np.ndarray) -> np.ndarray:
    """Return the logarithms of the power in each band, float32 [frames, bands], every 8 ms."""
    transform, bands = filters()
    frames = np.lib.stride_tricks.sliding_window_view(audio, WINDOW)[::HOP]
    found = frames @ transform.T
    bins = len(transform) // 2
    power = (found[:, :bins] ** 2 + found[:, bins:] ** 2) @ bands.T
    return np.log(power + QUIETEST).astype(np.float32)


def calibration() -> Iterator[dict[str, object]]:
    """Yield audio and labels of 100 utterances."""
    return _samples(*CALIBRATION)


def evaluation() -> Iterator[dict[str, object]]:
    """Yield audio and labels of 400 other utterances."""
    return _samples(*EVALUATION)


def others() -> Iterator[dict[str, object]]:
    """Yield audio and labels of 800 more, which tell smaller differences."""
    return _samples(*OTHERS)


def calibration_features() -> Iterator[dict[str, object]]:
    """Yield the same utterances as features."""
    return _features(calibration())


def evaluation_features() -> Iterator[dict[str, object]]:
    """Yield the same utterances as features."""
    return _features(evaluation())


def _samples(seed: int, count: int) -> Iterator[dict[str, object]]:
    rng = np.random.RandomState(seed)
    for _ in range(count):
        clean, digits = utterance(rng)
        yield {"audio": noisy(rng, clean, len(clean)), "labels": " ".join(NAMES[digit] for digit in digits)}


def _features(samples: Iterator[dict[str, object]]) -> Iterator[dict[str, object]]:
    for sample in samples:
        yield {"x": features(np.asarray(sample["audio"])), "labels": sample["labels"]}


def _gap(rng: np.random.RandomState, least: float, most: float) -> np.ndarray:
    return np.zeros(int(rng.uniform(least, most) * RATE / 1000))


def _word(rng: np.random.RandomState, speaker: Speaker, phones: tuple[Phone, ...]) -> np.ndarray:
    """A word: tracks from phone to phone, harmonics below formants, and hiss."""
    lengths = np.array([phone.length for phone in phones]) * speaker.slow * rng.uniform(0.75, 1.25, len(phones))
    ends = np.cumsum(lengths) * RATE / 1000
    times = np.arange(0, ends[-1], STEP)
    at = np.concatenate([[0], ends - lengths * RATE / 2000, [ends[-1]]])

    def track(values: list[float]) -> np.ndarray:
        return np.interp(times, at, [values[0], *values, values[-1]])

    formants = [
        track([phone.formants[i] * speaker.tract * rng.uniform(0.9, 1.12) for phone in phones]) for i in range(3)
    ]
    # a word begins and ends softly
    soft = np.minimum(1, np.minimum(times, ends[-1] - times) / (0.02 * RATE))
    voiced, hiss = (track([phone[i] for phone in phones]) * soft for i in (2, 3))
    pitch = speaker.pitch * np.interp(times, [0, ends[-1]], rng.uniform(0.85, 1.15, 2))
    length = int(ends[-1])
    phase = 2 * np.pi * np.cumsum(np.interp(np.arange(length), times, pitch)) / RATE
    sound = np.zeros(length)
    for harmonic in range(1, int(0.95 * RATE / 2 / pitch.max()) + 1):
        frequency = harmonic * pitch
        loud = sum(
            weight / (1 + ((frequency - formant) / width) ** 2)
            for formant, width, weight in zip(formants, (80, 110, 160), (1.0, 0.6, 0.3), strict=True)
        )
        sound += np.interp(np.arange(length), times, loud * voiced) * np.sin(harmonic * phase)
    centre = np.interp(np.arange(length), times, track([phone.centre * speaker.tract for phone in phones]))
    turned = np.exp(2j * np.pi * np.cumsum(np.minimum(centre, 3700)) / RATE)
    low = np.convolve(rng.standard_normal(length), np.hanning(14)[1:-1] / 6, "same")
    sound += 2.5 * np.interp(np.arange(length), times, hiss) * low * turned.real
    return sound * speaker.gain * 0.4
