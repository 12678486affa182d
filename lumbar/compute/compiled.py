"""Networks whose convolutions OpenVINO computes on a CPU, in place of PyTorch: faster, and a package of its own.

Converting weights takes seconds a network, once a run; what comes of it is kept in a folder that goes with the runner,
from which another fold's weights are back in a fraction of a second. It cannot be had by writing into the converted
network: norms are folded and tables worked out on the way.
"""

import copy
import importlib.util
import tempfile
import threading
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from lumbar.compute import crew
from lumbar.issues import InputError

#: OpenVINO's name of a number type, by the engine's word.
PRECISION: Final = {"openvino": "f32", "openvino-half": "bf16"}
#: The parts of a grader that are worth it; a detector is one part.
_PART: Final = "backbone"


def check(word: str, device: torch.device) -> None:
    """InputError where OpenVINO is not installed, or cannot do on this machine what the word says."""
    if device.type != "cpu":
        raise InputError(f"engine {word!r} computes on the CPU, not on {device}; add --device cpu or choose 'half'")
    if importlib.util.find_spec("openvino") is None:
        raise InputError(f"engine {word!r} needs OpenVINO; pip install openvino, or choose 'fused'")
    if PRECISION[word] == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise InputError(f"engine {word!r}: this CPU does not compute in bfloat16; choose 'openvino'")


class CompiledRunner:
    """As `engine.Runner`: a network in evaluation mode, into which other weights of its kind can be swapped."""

    def __init__(self, network: nn.Module, word: str, example: torch.Tensor, name: str, usual: int = 0) -> None:
        """`network` holds the weights of member `name`; it is changed in place. `example`: a small input; `usual`: how
        many times as large most batches will be, where that is known."""
        self.word, self.folder = word, tempfile.TemporaryDirectory(prefix="lumbar-openvino-")
        self.names = [key for key, _ in network.named_modules() if key.rpartition(".")[2] == _PART] or [""]
        #: The network as it was built, which holds what is to be converted, and an input of each part.
        self.source = copy.deepcopy(network.eval().requires_grad_(False))
        self.examples = _inputs(self.source, self.names, example)
        self.network = network
        for key in self.names:
            self._put(key, Part(usual * len(self.examples[key])))
        self.nbytes = sum(value.numel() * value.element_size() for value in self.source.state_dict().values())
        self.fill(self.source.state_dict(), name)

    def fill(self, state: Mapping[str, torch.Tensor], name: str) -> None:
        """Put the state dict of member `name`, of the network as it was built, into it."""
        files = {key: Path(self.folder.name) / f"{name}.{key or 'whole'}.xml" for key in self.names}
        if not all(file.is_file() for file in files.values()):
            self.source.load_state_dict(state)
            for key, file in files.items():
                _convert(self.source.get_submodule(key), self.examples[key], file)
        for key, file in files.items():
            part = self.network.get_submodule(key)
            assert isinstance(part, Part)
            part.load(file, self.word)
        if self.names != [""]:
            self.network.load_state_dict({key: state[key] for key in self.network.state_dict()})

    def release(self) -> None:
        """Let go of what lies between layers, which each compiled part keeps for its next call: up to half a GB."""
        for key in self.names:
            part = self.network.get_submodule(key)
            assert isinstance(part, Part)
            part.release()

    def copy(self) -> "CompiledRunner":
        """A twin with compiled parts of its own; it has none before it is filled."""
        twin = copy.copy(self)
        twin.network = copy.deepcopy(self.network)
        return twin

    def _put(self, key: str, part: "Part") -> None:
        if not key:
            self.network = part
            return
        parent, _, last = key.rpartition(".")
        setattr(self.network.get_submodule(parent), last, part)


class Part(nn.Module):
    """A network, or a part of one, in OpenVINO. Several threads may call it, each computes on one core.

    It is compiled by the process that first calls it: what OpenVINO starts does not outlive the birth of a child. For
    batches of `usual` images by themselves, which saves choosing kernels at the first call and some percent of
    every call; for all other sizes together. So a batch's answer does not depend on those before it.
    """

    def __init__(self, usual: int = 0) -> None:
        super().__init__()
        self.usual = usual
        self._lock = threading.Lock()
        self.load(Path(), "openvino")

    def load(self, file: Path, word: str) -> None:
        """Take what was converted into a file; nobody may be calling it."""
        self.file, self.word = file, word
        self._compiled: dict[int, Any] = {}  # by batch size; 0: any
        self._requests = threading.local()
        self._callers, self._to_release = 0, False

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        own: dict[int, Any] = self._requests.__dict__.setdefault("by_size", {})
        size = self.usual if len(batch) == self.usual else 0
        if size not in own:
            own[size] = self._compile(size, batch.shape).create_infer_request()
        with self._lock:
            self._callers += 1
        # The request writes its next answer into the same memory.
        answer = own[size].infer([batch.contiguous().numpy()], share_inputs=True, share_outputs=True)[0].copy()
        with self._lock:
            self._callers -= 1
            if self._to_release:
                self._release()
        return torch.from_numpy(answer)

    def release(self) -> None:
        """Free its memory beside the weights, now or when its last caller is done."""
        with self._lock:
            self._release()

    def _release(self) -> None:
        self._to_release = self._callers > 0
        if not self._to_release:
            for each in self._compiled.values():
                each.release_memory()

    def _compile(self, size: int, shape: torch.Size) -> Any:
        import openvino

        with self._lock:
            if size not in self._compiled:
                started.set()
                cores = torch.get_num_threads()
                hints = {
                    "NUM_STREAMS": cores,
                    "INFERENCE_NUM_THREADS": cores,
                    "INFERENCE_PRECISION_HINT": PRECISION[self.word],
                    "ENABLE_CPU_PINNING": False,  # else every process computes on the first cores
                }
                core = openvino.Core()
                model = core.read_model(self.file)
                if size:
                    model.reshape(list(shape))
                self._compiled[size] = core.compile_model(model, "CPU", hints)
            return self._compiled[size]

    def __deepcopy__(self, _: dict[int, Any]) -> "Part":
        return Part(self.usual)


#: Whether OpenVINO computes in this process, of which no copies can be made then.
started: Final = threading.Event()


def _inputs(network: nn.Module, names: list[str], example: torch.Tensor) -> dict[str, torch.Tensor]:
    """What each part sees where the network sees `example`."""
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        network.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: seen.update({name: inputs[0]})
        )
        for name in names
    ]
    with torch.inference_mode():
        network(example)
    for hook in hooks:
        hook.remove()
    return {name: torch.zeros_like(value) for name, value in seen.items()}


def _convert(part: nn.Module, example: torch.Tensor, file: Path) -> None:
    """Write a part, for any number of samples, as OpenVINO reads it; by a child where there can be one (see `Part`)."""
    if started.is_set() or not crew.POSSIBLE:
        _write(part, example, file)
    else:
        list(crew.answers(partial(map, partial(_write, part, example)), [file], 1))


def _write(part: nn.Module, example: torch.Tensor, file: Path) -> Path:
    import openvino

    with warnings.catch_warnings(), torch.inference_mode():  # the tracer warns of every shape that it takes as fixed
        warnings.simplefilter("ignore")
        model = openvino.convert_model(part, example_input=torch.cat([example, example]))
    model.reshape([-1, *example.shape[1:]])
    openvino.save_model(model, file, compress_to_fp16=False)
    return file
