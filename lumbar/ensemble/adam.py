"""AdamW in numpy, where the order of additions, and with it the result, is fixed."""

from collections.abc import Mapping

import numpy as np

#: Running means of the slopes and of their squares, by name.
Moments = dict[str, tuple[np.ndarray, np.ndarray]]


def step_of(
    network: dict[str, np.ndarray],
    moments: Moments,
    slopes: Mapping[str, np.ndarray],
    step: int,
    rate: float,
    decay: float,
) -> None:
    """One step in place, the first is number 1; what has fewer than two axes (biases, temperatures) does not decay."""
    for name, slope in slopes.items():
        first, second = moments.setdefault(name, (np.zeros_like(network[name]), np.zeros_like(network[name])))
        first += 0.1 * (slope - first)
        second += 0.001 * (slope**2 - second)
        change = (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        own = decay if network[name].ndim > 1 else 0.0
        network[name] = network[name] * (1 - rate * own) - rate * change


def fall(done: float) -> float:
    """Share of the full learning rate after a share of all steps, in a line down to nothing."""
    return 1.0 - done
