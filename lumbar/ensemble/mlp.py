"""A small network over all conditions, levels and members of a study, trained on the official score itself.

logits = average · temperature of the group + what the network adds

Its last layer starts at zero, so it starts as the average. Half of the studies of each batch are mirrored, and a
study's answer is the mean of its own and of its mirror image's. Each inner fold trains one network and keeps its best
epoch on the studies held out; the networks are averaged. One hidden layer is little enough to be written out in numpy,
where the order of additions, and with it the result, is fixed.
"""

from typing import Final

import numpy as np
from safetensors.numpy import load, save

from lumbar.ensemble.adam import Moments, step_of
from lumbar.ensemble.cells import GROUP_OF, GROUPS, MIRROR, Cells, Scale, deviations, ratios
from lumbar.ensemble.cells import speakers as speakers_of
from lumbar.ensemble.fit import Fit, inner_folds
from lumbar.ensemble.objective import loss_and_gradient, softmax, weight_sums
from lumbar.ensemble.prior import with_prior
from lumbar.labels import CONDITIONS, LEVELS, SEVERITIES

HIDDEN, DROPOUT, RATE, DECAY, BATCH, EPOCHS, INNER = 32, 0.5, 1e-3, 1.0, 128, 14, 6
#: Share of all steps with a rising rate.
WARM_UP: Final = 0.1
_FILE: Final = "mlp.safetensors"
_SHAPE: Final = (len(CONDITIONS), len(LEVELS), len(SEVERITIES))
#: `w1` (F, H), `b1` (H,), `w2` (H, 75), `b2` (75,), `t` (groups,): the logarithm of the temperatures.
Network = dict[str, np.ndarray]


def fit(cells: Cells, codes: np.ndarray, seed: int) -> Fit:
    """`INNER` networks, each stopped on the studies that it did not see; codes (N, 5, 5)."""
    members, base = speakers_of(cells), cells.logits()
    scale = _scale(_inputs(cells, members))
    x = np.stack([scale(_inputs(side, members)) for side in (cells, cells.mirrored())], axis=1)
    bases, truth = np.stack([base, base[:, MIRROR]], axis=1), np.stack([codes, codes[:, MIRROR]], axis=1)
    stored: Network = {}
    for number, (train, held_out) in enumerate(inner_folds(len(codes), INNER, seed)):
        network = _train(x, bases, truth, train, held_out, seed + number)
        stored |= {f"{number}.{name}": value for name, value in network.items()}
    return Fit("mlp", {"members": members, "scale": scale.store(), "networks": INNER}, {_FILE: save(stored)})


def predict(fitted: Fit, cells: Cells) -> np.ndarray:
    """(N, 5, 5, 3): the mean of all networks' logits."""
    params, stored = fitted.params, load(fitted.files[_FILE])
    scale = Scale.read(params["scale"])
    x = np.stack([scale(_inputs(side, params["members"])) for side in (cells, cells.mirrored())], axis=1)
    base, count = cells.logits(), params["networks"]
    names = ("w1", "b1", "w2", "b2", "t")
    networks = [{name: stored[f"{number}.{name}"] for name in names} for number in range(count)]
    return with_prior(
        softmax(sum(_answer(network, x, base) for network in networks) / count), cells.spoken, cells.prior
    )


def _inputs(cells: Cells, members: list[list[int]]) -> np.ndarray:
    """(N, F): the average's log ratios and every member's deviation from it, all cells of a study in one row."""
    parts = [deviations(cells, group, members[group]).reshape(len(cells.members), -1) for group in range(len(GROUPS))]
    return np.concatenate([ratios(cells.logits()).reshape(len(cells.members), -1), *parts], axis=1)


def _scale(inputs: np.ndarray) -> Scale:
    """One unit for all log ratios of moderate, one for severe, one for all deviations.

    So a level where little ever happens stays quiet, instead of being blown up to the size of the others.
    """
    cells = len(CONDITIONS) * len(LEVELS)
    own = Scale.of(inputs[:, : 2 * cells].reshape(-1, 2))
    rest = inputs[:, 2 * cells :]
    spread = np.full(rest.shape[1], rest.std() if rest.size else 0.0)
    return Scale(
        np.concatenate([np.tile(own.mean, cells), np.zeros(rest.shape[1])]),
        np.concatenate([np.tile(own.spread, cells), spread]),
    )


def _bend(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SiLU, value · sigmoid(value), and its derivative."""
    sigmoid = 1 / (1 + np.exp(-np.clip(value, -50, 50)))
    return value * sigmoid, sigmoid * (1 + value * (1 - sigmoid))


def _warm(network: Network, base: np.ndarray) -> np.ndarray:
    """The average's logits (…, 5, 5, 3) at the network's temperatures."""
    return base * np.exp(network["t"])[GROUP_OF][:, None, None]


def _answer(network: Network, x: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Logits (N, 5, 5, 3) from inputs (N, 2, F) of a study and its mirror image."""
    said = _bend(x @ network["w1"] + network["b1"])[0] @ network["w2"] + network["b2"]
    said = said.reshape(len(x), 2, *_SHAPE)
    return _warm(network, base) + (said[:, 0] + said[:, 1][:, MIRROR]) / 2


def _train(
    x: np.ndarray, base: np.ndarray, codes: np.ndarray, train: np.ndarray, held_out: np.ndarray, seed: int
) -> Network:
    """AdamW with one rise and one fall of the rate; the network of the epoch with the best held-out score.

    `x` (N, 2, F), `base` (N, 2, 5, 5, 3), `codes` (N, 2, 5, 5): each study, then its mirror image.
    """
    rng = np.random.default_rng(seed)
    network = _fresh(x.shape[-1], rng)
    moments: Moments = {}
    studies, total = np.flatnonzero(train), weight_sums(codes[train, 0])
    batches = max(1, round(len(studies) / BATCH))
    best, best_loss, step = network, np.inf, 0
    for _ in range(EPOCHS):
        for batch in np.array_split(rng.permutation(studies), batches):
            side = rng.integers(0, 2, len(batch))
            sums = total * len(batch) / len(studies)
            slopes = _slopes(network, x[batch, side], base[batch, side], codes[batch, side], sums, rng)
            step += 1
            step_of(network, moments, slopes, step, RATE * _rate(step / (EPOCHS * batches)), DECAY)
        loss = loss_and_gradient(_answer(network, x[held_out], base[held_out, 0]), codes[held_out, 0])[0]
        if loss < best_loss:
            best, best_loss = {name: value.copy() for name, value in network.items()}, loss
    return best


def _fresh(inputs: int, rng: np.random.Generator) -> Network:
    outputs = int(np.prod(_SHAPE))
    return {
        "w1": rng.normal(0, (3 * max(inputs, 1)) ** -0.5, (inputs, HIDDEN)),
        "b1": np.zeros(HIDDEN),
        "w2": np.zeros((HIDDEN, outputs)),
        "b2": np.zeros(outputs),
        "t": np.zeros(len(GROUPS)),
    }


def _rate(done: float) -> float:
    """Share of the full learning rate after a share of all steps: up in a line, down in half a cosine."""
    return done / WARM_UP if done < WARM_UP else float(0.5 + 0.5 * np.cos(np.pi * (done - WARM_UP) / (1 - WARM_UP)))


def _slopes(
    network: Network, x: np.ndarray, base: np.ndarray, codes: np.ndarray, sums: np.ndarray, rng: np.random.Generator
) -> Network:
    """The score's derivative by every weight, hidden units dropped at random."""
    hidden, slant = _bend(x @ network["w1"] + network["b1"])
    mask = (rng.random(hidden.shape) >= DROPOUT) / (1 - DROPOUT)
    kept, warm = hidden * mask, _warm(network, base)
    added = (kept @ network["w2"] + network["b2"]).reshape(base.shape)
    by_logits = loss_and_gradient(warm + added, codes, sums)[1]
    by_t = (by_logits * warm).sum(axis=(0, 2, 3))
    slope = by_logits.reshape(len(x), -1)
    by_hidden = slope @ network["w2"].T * mask * slant
    t = np.array([by_t[list(places)].sum() for places in GROUPS])
    return {"w1": x.T @ by_hidden, "b1": by_hidden.sum(0), "w2": kept.T @ slope, "b2": slope.sum(0), "t": t}
