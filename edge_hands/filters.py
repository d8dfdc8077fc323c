"""The one-euro filter: smooth when slow, prompt when fast (Casiez, Roussel, Vogel, CHI 2012). Pure functions.

The state is handed in and out, so a tracker can keep one for each hand and drop it with the hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class OneEuro:
    """``min_cutoff`` Hz at rest (lower: smoother), ``beta`` by how much the cutoff rises per unit of speed (higher:
    less lag), ``speed_cutoff`` Hz for the speed's own filter. Speeds are in units of the signal per second."""

    min_cutoff: float = 1.0
    beta: float = 0.0
    speed_cutoff: float = 1.0


@dataclass(frozen=True)
class OneEuroState:
    """Last time in seconds, last filtered value and last filtered speed."""

    time: float
    value: np.ndarray
    speed: np.ndarray


def one_euro(
    value: np.ndarray, time: float, state: OneEuroState | None, settings: OneEuro, scale: float | np.ndarray = 1.0
) -> OneEuroState:
    """The next state, whose ``value`` is the filtered signal, for a sample of any shape at ``time`` in seconds.

    The first sample (no state) passes unchanged; so does one whose time does not lie after the last. ``scale`` divides
    the speed before it is compared with ``beta``: a hand's size in pixels makes the setting independent of distance. An
    array, which fits ``value``, has one for each of its signals.
    """
    value = np.asarray(value, float)
    if state is None or state.value.shape != value.shape or not time > state.time:
        return OneEuroState(time, value, np.zeros_like(value))
    step = time - state.time
    speed = _mix((value - state.value) / step, state.speed, settings.speed_cutoff, step)
    cutoff = settings.min_cutoff + settings.beta * np.abs(speed) / scale
    return OneEuroState(time, _mix(value, state.value, cutoff, step), speed)


def _mix(new: np.ndarray, old: np.ndarray, cutoff: np.ndarray | float, step: float) -> np.ndarray:
    alpha = 1.0 / (1.0 + 1.0 / (2 * np.pi * cutoff * step))
    return alpha * new + (1.0 - alpha) * old
