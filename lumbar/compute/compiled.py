"""Networks whose convolutions OpenVINO computes on a CPU, in place of PyTorch: faster, and a package of its own.

Converting weights takes seconds a network, once a run; what comes of it is kept in a folder that goes with the runner,
from which another fold's weights are back in a fraction of a second. It cannot be had by writing into the converted
network: norms are folded and tables worked out on the way.
"""

import copy
import ctypes
import importlib.util
import math
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from torch import nn

from lumbar.compute import process_pool, thread_pool
from lumbar.compute.forward import Inputs, asked
from lumbar.issues import InputError

Answer = TypeVar("Answer")
#: OpenVINO's name of a number type, by the engine's word.
PRECISION: Final = {"openvino": "f32", "openvino-half": "bf16"}
#: Seconds of a core that OpenVINO saves by GFLOP beside PyTorch in float32, and that a network takes to be converted,
#: tried out and compiled; see `benchmarks/README.md`.
SAVED_PER_GFLOP: Final = 0.002
TO_LOAD: Final = 8.0
#: A probability may move so far where nobody asked for OpenVINO.
MOST_MOVED: Final = 1e-4
#: The parts of a grader that are worth it; a detector is one part.
_PART: Final = "backbone"


def pays(gflop: float, networks: int) -> bool:
    """Whether so much work by so many networks on a CPU is done sooner by OpenVINO, its loading included."""
    return is_installed() and gflop * SAVED_PER_GFLOP > networks * TO_LOAD


def is_installed() -> bool:
    """Whether OpenVINO is there."""
    return importlib.util.find_spec("openvino") is not None


def check(word: str, device: torch.device) -> None:
    """InputError where OpenVINO is not installed, or cannot do on this machine what the word says."""
    if device.type != "cpu":
        raise InputError(f"engine {word!r} computes on the CPU, not on {device}; add --device cpu or choose 'half'")
    if not is_installed():
        raise InputError(f"engine {word!r} needs OpenVINO; pip install openvino, or choose 'fused'")
    if PRECISION[word] == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise InputError(f"engine {word!r}: this CPU does not compute in bfloat16; choose 'openvino'")


class CompiledRunner:
    """As `engine.Runner`: a network in evaluation mode, into which other weights of its kind can be swapped."""

    def __init__(self, network: nn.Module, word: str, example: Inputs) -> None:
        """`network` is changed in place, and answers only once it is filled. `example`: the input for one sample."""
        self.word, self.folder = word, tempfile.TemporaryDirectory(prefix="lumbar-openvino-")
        self.names = [key for key, _ in network.named_modules() if key.rpartition(".")[2] == _PART] or [""]
        #: The network as it was built, which holds what is to be converted, and an input of each part.
        self.source = copy.deepcopy(network.eval().requires_grad_(False))
        self.examples = _inputs(self.source, self.names, example)
        self.network = network
        for key in self.names:
            self._put(key, Part())
        self.nbytes = sum(value.numel() * value.element_size() for value in self.source.state_dict().values())

    def convert(self, state: Mapping[str, torch.Tensor], name: str) -> None:
        """Write the state dict of member `name`, of the network as it was built, as OpenVINO reads it.

        Best by a child (see `Part`): what has to do with OpenVINO starts threads, which a copy of the process lacks.
        """
        self.source.load_state_dict(state)
        for key, file in self._files(name).items():
            _write(self.source.get_submodule(key), self.examples[key], file)

    def moved(self, state: Mapping[str, torch.Tensor], name: str, noise: Inputs) -> float:
        """By how much the answers to noise, one sample as the network sees it, differ from PyTorch's; see `convert`.

        A grader's answers, severities, are compared as probabilities; infinite where one is no number.
        """
        self.convert(state, name)
        self.fill(state, name)
        with torch.inference_mode():
            found, wanted = asked(self.network, noise), asked(self.source, noise)
        if isinstance(noise, tuple):
            found, wanted = found.softmax(-1), wanted.softmax(-1)
        most = float((found - wanted).abs().max())
        return most if math.isfinite(most) else float("inf")

    def fill(self, state: Mapping[str, torch.Tensor], name: str) -> None:
        """Put the state dict of member `name`, of the network as it was built, into it, converted where it is not."""
        files = self._files(name)
        if not all(file.is_file() for file in files.values()):
            in_children(lambda _: self.convert(state, name), [name])
        for key, file in files.items():
            part = self.network.get_submodule(key)
            assert isinstance(part, Part)
            part.load(file, self.word)
        if self.names != [""]:
            self.network.load_state_dict({key: state[key] for key in self.network.state_dict()})

    def _files(self, name: str) -> dict[str, Path]:
        """Where what each part comes to is kept."""
        return {key: Path(self.folder.name) / f"{name}.{key or 'whole'}.xml" for key in self.names}

    def release(self) -> None:
        """Let go of what was compiled, which takes more memory than the weights; the next call compiles it anew."""
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

    It is compiled by the process that first calls it: what OpenVINO starts does not outlive the birth of a child. A
    batch goes through in pieces of one sample's images, which takes no longer: kernels are chosen for that size
    alone, little lies between layers, and no answer depends on what else is in the batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self.load(Path(), "openvino")

    def load(self, file: Path, word: str) -> None:
        """Take what was converted into a file; nobody may be calling it."""
        self.file, self.word = file, word
        self._compiled: Any = None
        self._requests = threading.local()
        self._callers, self._to_release = 0, False

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        with self._lock:
            self._callers += 1
            requests = self._requests
        try:
            if not hasattr(requests, "own"):
                requests.own = self._compile().create_infer_request()
            size = requests.own.model_inputs[0].shape[0]
            return torch.cat([_infer(requests.own, piece, size) for piece in batch.contiguous().split(size)])
        finally:
            with self._lock:
                self._callers -= 1
                if self._to_release:
                    self._release()

    def release(self) -> None:
        """Free what was compiled, now or when its last caller is done."""
        with self._lock:
            self._release()

    def _release(self) -> None:
        self._to_release = self._callers > 0
        if not self._to_release:
            self._compiled, self._requests = None, threading.local()

    def _compile(self) -> Any:
        import openvino

        with self._lock:
            if self._compiled is None:
                started.set()
                streams = thread_pool.count_here()
                hints = {
                    "NUM_STREAMS": streams,
                    "INFERENCE_NUM_THREADS": streams * torch.get_num_threads(),
                    "INFERENCE_PRECISION_HINT": PRECISION[self.word],
                    "ENABLE_CPU_PINNING": False,  # else every process computes on the first cores
                }
                with signal_stack_kept():
                    self._compiled = openvino.Core().compile_model(self.file, "CPU", hints)
            return self._compiled

    def __deepcopy__(self, _: dict[int, Any]) -> "Part":
        return Part()


class SignalStack(ctypes.Structure):
    """Where a thread's signals are handled, `stack_t` of sigaltstack(2) on Linux."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack() -> SignalStack | None:
    """This thread's stack for signals; None elsewhere than on Linux."""
    if sys.platform != "linux":
        return None
    stack = SignalStack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
    return stack


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Give the thread its stack for signals back at the end.

    Compiling puts another in its place, which goes with what was compiled: the next signal, of Ctrl-C as of an alarm,
    would be handled in memory that is gone, and end the process.
    """
    before = signal_stack()
    try:
        yield
    finally:
        if before is not None:
            ctypes.CDLL(None).sigaltstack(ctypes.byref(before), None)


def _infer(request: Any, piece: torch.Tensor, size: int) -> torch.Tensor:
    """Answers to at most `size` images, which is how many the request takes."""
    filled = torch.cat([piece, piece.new_zeros(size - len(piece), *piece.shape[1:])]) if len(piece) < size else piece
    # The request writes its next answer into the same memory.
    answer = request.infer([filled.numpy()], share_inputs=True, share_outputs=True)[0].copy()
    return torch.from_numpy(answer[: len(piece)])


#: Whether OpenVINO computes in this process, of which no copies can be made then.
started: Final = threading.Event()


def _inputs(network: nn.Module, names: list[str], example: Inputs) -> dict[str, torch.Tensor]:
    """What each part sees where the network sees `example`."""
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        network.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: seen.update({name: inputs[0]})
        )
        for name in names
    ]
    with torch.inference_mode():
        asked(network, example)
    for hook in hooks:
        hook.remove()
    return {name: torch.zeros_like(value) for name, value in seen.items()}


def in_children(call: Callable[[str], Answer], names: Sequence[str]) -> list[Answer]:
    """What it gives for every name, called by a child for each core where there can be children."""
    if started.is_set() or not process_pool.POSSIBLE:
        return [call(name) for name in names]
    return list(process_pool.answers(partial(map, call), names, min(len(names), torch.get_num_threads())))


def _write(part: nn.Module, example: torch.Tensor, file: Path) -> None:
    """Convert a part for inputs as the example."""
    import openvino

    with warnings.catch_warnings(), torch.inference_mode():  # the tracer warns of every shape that it takes as fixed
        warnings.simplefilter("ignore")
        # OpenVINO would have the tracer check its work, which takes as long again.
        traced = torch.jit.trace(part, example, check_trace=False)
        model = openvino.convert_model(traced, example_input=example)
    model.reshape(list(example.shape))
    openvino.save_model(model, file, compress_to_fp16=False)
