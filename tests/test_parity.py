"""Networks of other systems, number for number: rule-made weights in, recorded outputs out.

Every entry of `../shared/parity/*/models.json`, or of the folder that `LUMBAR_PARITY` names, whose class is built here;
and those that lie in `tests/parity`, which any clone has.
"""

import importlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, SHARED

from lumbar.bundle.network import blueprint, unfilled
from lumbar.compute.forward import asked, mapped
from lumbar.grading.networks.registry import NETWORKS as GRADERS
from lumbar.keypoints.networks.registry import NETWORKS as DETECTORS
from tests.support.recorded.adapters import ELSEWHERE, adapter_of
from tests.support.recorded.record import Record, records
from tests.support.rule_weights import EXTENDED, OTHER, rule_weight

NAMED = os.environ.get("LUMBAR_PARITY")
FOLDER = Path(NAMED or SHARED / "parity")
#: By system and name; what lies in both folders is run once.
RECORDS = {
    f"{record.folder.name}-{record.name}": record
    for folder in (ROOT / "tests" / "parity", FOLDER)
    for record in records(folder)
}


def check(record: Record) -> None:
    """Build, fill, call and compare; skips what is not built here."""
    if place := next((place for kind, place in ELSEWHERE.items() if re.match(kind, record.kind)), ""):
        pytest.skip(f"{record.kind} is {place}")
    adapter = adapter_of(record)
    ours = adapter(record) if adapter else None
    if ours is None:
        pytest.skip(f"{record.kind} is not built here")
    if ours.spec.network not in {**DETECTORS, **GRADERS}:
        pytest.skip(f"{record.kind} needs the network {ours.spec.network}, which is not built here")
    network = unfilled(blueprint(ours.spec, record.name), ours.spec, "cpu").eval()
    state = network.state_dict()
    taken = {own: ours.keys(own) for own in state}
    used = {key for keys in taken.values() for key in keys}
    left = [key for key in record.keys if key not in used and not key.startswith(ours.unused or ("\0",))]
    assert not left, f"recorded tensors without a place here: {left[:5]}"
    parts = {
        own: [ours.made[own](record)] if own in ours.made else [np.asarray(record.weight(key)) for key in keys]
        for own, keys in taken.items()
    }
    filled = {own: torch.from_numpy(np.concatenate(each) if len(each) > 1 else each[0]) for own, each in parts.items()}
    assert {own: tuple(value.shape) for own, value in filled.items()} == {
        own: tuple(value.shape) for own, value in state.items()
    }
    network.load_state_dict(filled)
    network.training = ours.beside
    for name, change in ours.given.items():
        network.get_submodule(name).register_forward_pre_hook(lambda _, given, change=change: (change(given[0]),))
    for name, change in ours.replaced.items():
        network.get_submodule(name).register_forward_hook(lambda _, given, output, change=change: change(output))
    given = ours.called_with(record.inputs())
    found = [answer(network, one, ours.watched) for one in (given if isinstance(given, list) else [given])]
    found = found if isinstance(given, list) else found[0]
    for ours_said, told in ours.pairs(found, record.outputs()):
        np.testing.assert_allclose(ours_said, told, rtol=ours.tolerance, atol=ours.tolerance)


def answer(network: torch.nn.Module, given: Any, watched: Sequence[str]) -> Any:
    """What a network says, as arrays; by name where it says several things, or where modules are watched."""
    seen: dict[str, torch.Tensor] = {}
    for name in watched:

        def keep(module: torch.nn.Module, inputs: Any, output: torch.Tensor, name: str = name) -> None:
            seen[f"{name} in"], seen[name] = inputs[0], output

        network.get_submodule(name).register_forward_hook(keep)
    with torch.inference_mode():
        out = asked(network, torch.from_numpy(given) if isinstance(given, np.ndarray) else given)
    if isinstance(out, torch.Tensor):
        if not seen:
            return out.numpy()
        out = {"severity": out}
    return mapped(torch.Tensor.numpy, {**out, **seen})


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDS)
def test_a_recorded_network_gives_its_recorded_outputs(name: str) -> None:
    check(RECORDS[name])


#: Of the second place: what a record's name and the shapes of its last layers say of the network that it is.
OF_ONE_CLASS = {
    "second_ian_net2d_maxvit": ("pooling.p linear.bias", 3, "maxvit_tiny_tf_512", "gem", "mean"),
    "second_ian_net2d_nfnet": ("pooling.p linear.bias", 3, "dm_nfnet_f0", "gem", "mean"),
    "second_ian_net2d_effv2s": ("pooling.p linear.weight linear.bias", 10, "tf_efficientnetv2_s", "", "gem"),
    "second_ian_attn_tinyvit": ("pooling.p attn.attn.0.weight", 3, "tiny_vit_21m_512", "gem", "mish"),
    "second_ian_clam_maxvit": ("pooling.p linears.0.weight", 1, "maxvit_tiny_tf_512", "gem", "gated"),
    "second_ian_clam_xcit": ("linears.0.weight", 1, "xcit_tiny_12_p8_384", "mean", "gated"),
}


@pytest.mark.parametrize("name", OF_ONE_CLASS)
def test_networks_of_one_class_are_told_apart_by_their_last_layers(name: str) -> None:
    keys, answers, backbone, features, pool = OF_ONE_CLASS[name]
    content = {"keys": {key: [answers] for key in keys.split()}, "input": "RandomState(1).standard_normal((1,3,64,64))"}
    record = Record(FOLDER / "second", name, content)
    adapter = adapter_of(record)
    assert adapter is not None
    ours = adapter(record)
    assert ours is not None
    assert ours.spec.stage == ("grading" if features else "keypoints")
    assert ours.spec.backbone == backbone
    assert ours.spec.network_args.get("features", "") == features
    assert ours.spec.network_args["pool"] == pool


def test_a_sequence_network_of_one_head_is_read_too() -> None:
    one, three = (adapter_of(Record(FOLDER / "second", f"second_bartley_{heads}", {})) for heads in ("1head", "3heads"))
    assert one is three is not None


@pytest.mark.skipif(NAMED is None, reason="LUMBAR_PARITY names no folder")
def test_the_folder_that_is_named_holds_records() -> None:
    assert records(FOLDER), f"{FOLDER} has no <system>/models.json with networks"


def test_every_record_says_what_it_is_called_with() -> None:
    unsaid = [name for name, record in RECORDS.items() if adapter_of(record) and not record.inputs()]
    assert not unsaid


@pytest.mark.skipif(not (SHARED / "parity").is_dir(), reason="needs the recorded rules in ../shared/parity")
def test_weights_follow_from_keys_as_they_did_when_records_were_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SHARED / "parity"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    base, extended, other = (importlib.import_module(f"fill_{name}") for name in ("weights", "ext", "other"))
    gain = {"prefixes": ["a."], "factor": 1.2}
    for leaf in ("weight", "bias", "gamma", "gamma_1", "running_var", "running_mean", "scale", "logit_scale", "p"):
        for shape in ((1,), (4,), (3, 2, 1, 1)):
            key = f"a.{leaf}"
            np.testing.assert_array_equal(rule_weight(key, shape, "tag"), base.fill(key, shape, "tag"))
            found = rule_weight(key, shape, "tag", EXTENDED, gain)
            np.testing.assert_array_equal(found, extended.fill(key, shape, "tag", gain))
            np.testing.assert_array_equal(rule_weight(key, shape, "tag", OTHER), other.fill_other(key, shape, "tag"))
