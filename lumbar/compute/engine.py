"""How networks are run for inference, behind one word: memory format, folded layers, number type. Not how they train.

What was tried on a CPU, with gains and losses, is a table in `benchmarks/README.md`.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

import torch
from torch import nn

from lumbar.compute import compiled
from lumbar.compute.compiled import CompiledRunner
from lumbar.compute.forward import Inputs, asked, tensors
from lumbar.issues import InputError

EngineWord = Literal["auto", "eager", "fused", "half", "openvino", "openvino-half"]
#: Slices of so many pixels a side and more go through a backbone so many at a time on a CPU, whatever its kind: a fifth
#: faster for some and no slower for any (`benchmarks/engines.py --slices`). Smaller ones it does not matter for.
LARGE_SLICE, AT_ONCE = 192, 16
ENGINE_WORDS: Final[tuple[EngineWord, ...]] = get_args(EngineWord)


@dataclass(frozen=True)
class Engine:
    """One way to run networks.

    `fused`: channels-last memory and batch norms folded into the convolutions before them, the same numbers to
    rounding. `amp`: the autocast type, None for float32 throughout.
    """

    word: EngineWord
    fused: bool = False
    amp: torch.dtype | None = None

    @property
    def compiled(self) -> bool:
        """Whether OpenVINO computes."""
        return self.word in compiled.PRECISION

    def __str__(self) -> str:
        number = torch.bfloat16 if self.word == "openvino-half" else self.amp or torch.float32
        return f"{self.word} {str(number).removeprefix('torch.')}"


def choose_engine(word: str, device: torch.device, amp: torch.dtype | None = None) -> Engine:
    """The engine of a word on a device; `amp` is the type that suits an accelerator (see `lumbar.compute.device`).

    `auto`: what is safe: float32 with folded layers on a CPU, the accelerator's half type where `amp` names one. (Where
    OpenVINO pays, `Predictor` sees when the networks are there.)
    `half`: also on a CPU, which must compute in bfloat16; it moves probabilities, so that it is a choice. `openvino`
    and `openvino-half`: the same two by another library, on a CPU only. Raises InputError for an unknown word, a
    library that is not there or a device that cannot do it.
    """
    if word not in ENGINE_WORDS:
        raise InputError(f"unknown engine {word!r}; known: {', '.join(ENGINE_WORDS)}")
    if word == "eager":
        return Engine("eager")
    if word == "fused" or (word == "auto" and amp is None):
        return Engine("fused", fused=True)
    if word in compiled.PRECISION:
        compiled.check(word, device)
        return Engine(word)
    if amp is None:
        amp = _half_type(device)
    return Engine("half", fused=True, amp=amp)


def _half_type(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise InputError("engine 'half': this CPU does not compute in bfloat16; choose 'fused'")
    return torch.bfloat16


class Runner:
    """A network made ready for an engine, in evaluation mode; other weights of its kind can be swapped into it."""

    def __init__(self, network: nn.Module, engine: Engine, example: Inputs) -> None:
        """`network` is changed in place. `example`: a small input on its device, which it is asked about once.

        That shows whether it takes such inputs (whatever it raises is raised) and which layer follows which.
        """
        self.network, self.engine = network.eval().requires_grad_(False), engine
        self._resting: list[tuple[torch.UntypedStorage, int]] = []  # memory that was let go of, and its bytes
        state = dict(network.state_dict())
        pairs, self.gflop = _seen_at_work(network, example)
        self.pairs = pairs if engine.fused else {}
        for convolution, (norm, _) in self.pairs.items():
            parent, _, last = norm.rpartition(".")
            setattr(network.get_submodule(parent), last, nn.Identity())
            layer = network.get_submodule(convolution)
            assert isinstance(layer, nn.Conv2d)
            if layer.bias is None:
                layer.bias = nn.Parameter(layer.weight.new_zeros(layer.out_channels), requires_grad=False)
        seen = tensors(example)
        largest = max(value.shape[-1] for value in seen)
        if engine.word == "fused" and seen[0].device.type == "cpu" and largest >= LARGE_SLICE:
            for layer in network.modules():
                if hasattr(layer, "slices_at_once"):
                    layer.slices_at_once = AT_ONCE  # type: ignore[assignment]  # a number, no module
        if engine.fused:
            to_channels_last(network)
            if engine.amp is not None:  # as autocast would round them at every call, and half as large
                for layer in network.modules():
                    if type(layer) in (nn.Conv2d, nn.Conv3d, nn.Linear):
                        layer.to(engine.amp)
            self.fill(state)

    def fill(self, state: Mapping[str, torch.Tensor], name: str = "") -> None:
        """Put a state dict, of the network as it was built, into it; `name` whose it is."""
        folded = dict(state)
        for convolution, (norm, eps) in self.pairs.items():
            _fold(folded, f"{convolution}.", f"{norm}.", eps)
        for storage, size in self._resting:
            storage.resize_(size)
        self._resting.clear()
        self.network.load_state_dict(folded)

    def release(self) -> None:
        """Nothing to let go of: PyTorch frees what lies between layers by itself."""

    def rest(self) -> None:
        """Let go of the memory of its weights; `fill` takes as much again."""
        for value in self.network.state_dict().values():
            storage = value.untyped_storage()
            if size := storage.nbytes():
                self._resting.append((storage, size))
                storage.resize_(0)

    def copy(self) -> "Runner":
        """A twin with memory of its own."""
        twin = copy.deepcopy(self)
        for layer in twin.network.modules():
            if isinstance(layer, nn.RNNBase):
                layer.flatten_parameters()  # else a GPU does it at every call
        return twin

    @property
    def nbytes(self) -> int:
        """Memory that its weights take."""
        return sum(value.numel() * value.element_size() for value in self.network.state_dict().values())


def to_channels_last(network: nn.Module) -> None:
    """Let images pass through a network with their channels last in memory; layers of volumes stay as they are."""
    network._apply(lambda value: value.to(memory_format=torch.channels_last) if value.ndim == 4 else value)


def make_runner(network: nn.Module, engine: Engine, example: Inputs) -> Runner | CompiledRunner:
    """The network made ready for an engine; see the runners. One that OpenVINO computes is still to be filled."""
    return CompiledRunner(network, engine.word, example) if engine.compiled else Runner(network, engine, example)


def _seen_at_work(network: nn.Module, example: Inputs) -> tuple[dict[str, tuple[str, float]], float]:
    """What running an example shows.

    For each convolution whose output goes into a batch norm the norm's name and eps; and the work of convolutions and
    linear layers, GFLOP.
    """
    work: list[int] = []

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        assert isinstance(layer, nn.Conv2d | nn.Conv3d | nn.Linear)
        work.append(2 * output.numel() * layer.weight[0].numel())

    made: dict[int, tuple[str, torch.Tensor]] = {}  # the tensors stay alive, so that no two share an id
    pairs: dict[str, tuple[str, float]] = {}
    seen: list[str] = []

    def after(name: str) -> Callable[..., None]:
        def note(_: nn.Module, __: object, output: torch.Tensor) -> None:
            made[id(output)] = (name, output)

        return note

    def before(name: str, norm: nn.BatchNorm2d) -> Callable[..., None]:
        def note(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            seen.append(name)
            if id(inputs[0]) in made and norm.track_running_stats and norm.affine:
                pairs[made[id(inputs[0])][0]] = (name, norm.eps)

        return note

    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
            hooks.append(module.register_forward_hook(count))
        if type(module) is nn.Conv2d:
            hooks.append(module.register_forward_hook(after(name)))
        elif type(module) is nn.BatchNorm2d:  # a subclass may do more, an activation for instance
            hooks.append(module.register_forward_pre_hook(before(name, module)))
    with torch.inference_mode():
        asked(network, example)
    for hook in hooks:
        hook.remove()
    return {conv: (norm, eps) for conv, (norm, eps) in pairs.items() if seen.count(norm) == 1}, sum(work) / 1e9


def _fold(state: dict[str, torch.Tensor], convolution: str, norm: str, eps: float) -> None:
    """Replace a convolution and its norm in a state dict by one convolution that does both, in float32."""
    weight, bias, mean, variance = (
        state.pop(norm + part).float() for part in ("weight", "bias", "running_mean", "running_var")
    )
    state.pop(norm + "num_batches_tracked", None)
    scale = weight * torch.rsqrt(variance + eps)
    own = state.get(convolution + "bias")
    state[convolution + "bias"] = bias + ((own.float() if own is not None else 0.0) - mean) * scale
    state[convolution + "weight"] = state[convolution + "weight"].float() * scale[:, None, None, None]
