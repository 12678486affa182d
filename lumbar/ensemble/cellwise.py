"""A small network for each group of conditions that sees a cell's own logits and nothing else, as the sixth place's.

logits of a cell = W2 · LeakyReLU(W1 · [logits of every member, which of them speak] + b1) + b2

The three networks are trained together on the official score, its any-severe part included. Levels and sides share the
numbers of their group. A member's three logits come without their mean, which no softmax sees: log probabilities say
the same. Who is silent gives zeros and is told from who is undecided by the last inputs.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from safetensors.numpy import load, save

from lumbar.ensemble.adam import Moments, fall, step_of
from lumbar.ensemble.cells import FAINT, GROUPS, Cells
from lumbar.ensemble.cells import speakers as speakers_of
from lumbar.ensemble.fit import Fit
from lumbar.ensemble.objective import loss_and_gradient, softmax, weight_sums
from lumbar.ensemble.prior import with_prior
from lumbar.labels import CONDITION_GROUPS, CONDITIONS, LEVELS, SEVERITIES

#: The original has 4096 hidden units, a rate of 7e-5, a decay of 1 and 15 epochs; fewer units and larger steps take
#: seconds.
HIDDEN, RATE, DECAY, BATCH, EPOCHS, CLIP = 128, 2e-3, 0.1, 128, 30, 1.0
#: Slope of LeakyReLU below zero.
LEAK: Final = 0.05
_FILE: Final = "cells.safetensors"
_SHAPE: Final = (len(CONDITIONS), len(LEVELS), len(SEVERITIES))
#: The parts of a network.
NAMES: Final = ("w1", "b1", "w2", "b2")
#: `w1` (F, H), `b1` (H,), `w2` (H, 3), `b2` (3,).
Network = dict[str, np.ndarray]


def fit(cells: Cells, codes: np.ndarray, seed: int) -> Fit:
    """Three networks, trained for `EPOCHS` on all studies; codes (N, 5, 5)."""
    members = speakers_of(cells)
    inputs = [_inputs(cells, group, members[group]) for group in range(len(GROUPS))]
    networks = train(inputs, codes, seed)
    stored = {
        f"{group}.{name}": network[name]
        for group, network in zip(CONDITION_GROUPS, networks, strict=True)
        for name in NAMES
    }
    return Fit("cells", {"members": members}, {_FILE: save(stored)})


def predict(fitted: Fit, cells: Cells) -> np.ndarray:
    """(N, 5, 5, 3)."""
    stored = load(fitted.files[_FILE])
    networks = [{name: stored[f"{group}.{name}"] for name in NAMES} for group in CONDITION_GROUPS]
    inputs = [_inputs(cells, group, members) for group, members in enumerate(fitted.params["members"])]
    return with_prior(softmax(answers(networks, inputs)), cells.spoken, cells.prior)


def answer(network: Mapping[str, np.ndarray], inputs: np.ndarray) -> np.ndarray:
    """Logits (…, 3) of cells with inputs (…, F)."""
    hidden = inputs @ network["w1"] + network["b1"]
    return np.where(hidden > 0, hidden, LEAK * hidden) @ network["w2"] + network["b2"]


def _inputs(cells: Cells, group: int, members: list[int]) -> np.ndarray:
    """(N, conditions, 5, 4 × members): each member's logits without their mean, then who speaks."""
    said = np.moveaxis(cells.members[:, members][:, :, list(GROUPS[group])], 1, 3)  # (N, C, 5, M, 3)
    speaks = ~np.isnan(said).all(axis=-1)
    said = np.where(speaks[..., None], said, 1.0)
    logits = np.log(np.maximum(said / said.max(axis=-1, keepdims=True), FAINT))
    logits -= logits.mean(axis=-1, keepdims=True)
    return np.concatenate([logits.reshape(*speaks.shape[:-1], -1), speaks.astype(np.float64)], axis=-1)


def train(
    inputs: list[np.ndarray],
    codes: np.ndarray,
    seed: int,
    held_out: tuple[list[np.ndarray], np.ndarray] | None = None,
    epochs: int = EPOCHS,
) -> list[Network]:
    """AdamW with a rate that falls in a line, gradients cut to a length of `CLIP`; the networks of the last epoch.

    `inputs`: (N, conditions, 5, F) for each group; codes (N, 5, 5). `held_out`: the same of other studies; the
    networks of the epoch with the best score on them.
    """
    rng = np.random.default_rng(seed)
    networks = [_fresh(part.shape[-1], rng) for part in inputs]
    moments: list[Moments] = [{} for _ in networks]
    total, batches, step = weight_sums(codes), max(1, round(len(codes) / BATCH)), 0
    best, best_loss = networks, np.inf
    for _ in range(epochs):
        for batch in np.array_split(rng.permutation(len(codes)), batches):
            slopes = _slopes(networks, [part[batch] for part in inputs], codes[batch], total * len(batch) / len(codes))
            length = np.sqrt(sum(float((slope**2).sum()) for own in slopes for slope in own.values()))
            step += 1
            rate = RATE * fall(step / (epochs * batches))
            for network, own, moved in zip(networks, slopes, moments, strict=True):
                cut = {name: slope * min(1.0, CLIP / max(length, 1e-12)) for name, slope in own.items()}
                step_of(network, moved, cut, step, rate, DECAY)
        if (
            held_out is not None
            and (loss := loss_and_gradient(answers(networks, held_out[0]), held_out[1])[0]) < best_loss
        ):
            best, best_loss = [{name: value.copy() for name, value in one.items()} for one in networks], loss
    return networks if held_out is None else best


def answers(networks: list[Network], inputs: list[np.ndarray]) -> np.ndarray:
    """Logits (N, 5, 5, 3) of studies with inputs (N, conditions, 5, F) by group."""
    out = np.empty((len(inputs[0]), *_SHAPE))
    for network, part, places in zip(networks, inputs, GROUPS, strict=True):
        out[:, list(places)] = answer(network, part)
    return out


def _fresh(inputs: int, rng: np.random.Generator) -> Network:
    return {
        "w1": rng.normal(0, max(inputs, 1) ** -0.5, (inputs, HIDDEN)),
        "b1": np.zeros(HIDDEN),
        "w2": rng.normal(0, HIDDEN**-0.5, (HIDDEN, len(SEVERITIES))),
        "b2": np.zeros(len(SEVERITIES)),
    }


def _slopes(
    networks: list[Network], inputs: list[np.ndarray], codes: np.ndarray, sums: np.ndarray
) -> list[dict[str, Any]]:
    """The score's derivative by every weight of every network; `inputs` (B, conditions, 5, F) by group."""
    bent, logits = [], np.empty((*codes.shape, len(SEVERITIES)))
    for network, part, places in zip(networks, inputs, GROUPS, strict=True):
        raw = part @ network["w1"] + network["b1"]
        bent.append((np.where(raw > 0, raw, LEAK * raw), np.where(raw > 0, 1.0, LEAK)))
        logits[:, list(places)] = bent[-1][0] @ network["w2"] + network["b2"]
    slope = loss_and_gradient(logits, codes, sums)[1]
    found = []
    for network, part, places, (hidden, slant) in zip(networks, inputs, GROUPS, bent, strict=True):
        own = slope[:, list(places)].reshape(-1, len(SEVERITIES))
        by_hidden = (own @ network["w2"].T) * slant.reshape(-1, HIDDEN)
        flat = part.reshape(len(own), part.shape[-1])
        found.append(
            {
                "w1": flat.T @ by_hidden,
                "b1": by_hidden.sum(axis=0),
                "w2": hidden.reshape(-1, HIDDEN).T @ own,
                "b2": own.sum(axis=0),
            }
        )
    return found
