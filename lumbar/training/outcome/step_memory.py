"""The memory that a training step of a member takes of a GPU, worked out without computing anything.

The step is walked through on torch's `meta` tensors, which have shapes and number types and no numbers: forwards under
autocast, backwards, where what was kept is given back and gradients come. Every storage that an operation makes is
counted until nothing holds it, once, however many tensors share it. What stays from step to step is added: the
optimizer's moments, the moving average of the weights.

Not counted are the losses and the augmentation, workspaces of kernels, gaps between blocks and what CUDA takes for
itself; `FILLED` leaves room for these. In float32 it is what torch's allocator gives to the same step on a CPU, within
3 %, on small graders; where kernels on a CPU order tensors anew (bf16, dilated convolutions) that is up to a fifth more
on networks of a few layers. No GPU was there to compare.
"""

import weakref
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from lumbar.bundle.network import RECIPE, blueprint
from lumbar.compute.forward import asked, tensors
from lumbar.recipe.settings import Training
from lumbar.training.loop.beginning import freeze, rest
from lumbar.training.stages import MemberStage

#: Tensors that an optimizer keeps for each that learns: Adam's two moments; Lookahead's slow weights beside them.
KEPT: Final[Mapping[str, int]] = {"adamw": 2, "radam_lookahead": 3}
#: The share of a GPU's memory that steps can fill, guessed with room for what is not counted.
FILLED: Final = 0.9


class Gpu(NamedTuple):
    """A GPU as its data sheet has it."""

    tflops: float  # a second at best, in the number type that it trains fastest in, without sparsity
    gigabytes: int


#: Of NVIDIA's data sheets; of those that come with more or less memory, the smaller.
GPUS: Final[Mapping[str, Gpu]] = {
    "T4": Gpu(65, 16),
    "P100": Gpu(19, 16),
    "A100": Gpu(312, 40),
    "H100": Gpu(989, 80),
}


def room(gigabytes: int) -> float:
    """Bytes that steps can fill of a GPU's memory."""
    return FILLED * gigabytes * 1e9


class Memory(NamedTuple):
    """What a step of a member needs of a GPU."""

    bytes: int
    smaller: Mapping[int, int]  # GPU's memory that is too small, GB → a batch_size that fits; 0: none does


def memory_of(spec: Any, member: MemberStage, samples_of: Callable[[int], int], *, half: bool = True) -> Memory:
    """The memory of a step at the recipe's batch size; where a GPU has less, of how many halvings it holds one.

    `samples_of`: the samples of a batch of such a batch_size, more where whole studies stand in it.
    """
    known: dict[int, int] = {}

    def needed(batch_size: int) -> int:
        samples = samples_of(batch_size)
        if samples not in known:
            known[samples] = step_bytes(spec, member, samples, half=half)
        return known[samples]

    own = member.training.batch_size
    smaller = {}
    for gigabytes in sorted({gpu.gigabytes for gpu in GPUS.values()}):
        size = own
        while size and needed(size) > room(gigabytes):
            size //= 2
        if size < own:
            smaller[gigabytes] = size
    return Memory(needed(own), smaller)


def remedy(memory: Memory, training: Training, gigabytes: int) -> str:
    """What a step needs that a GPU of so much memory does not hold, and the keys of a recipe with which it does."""
    size = memory.smaller[gigabytes]
    times = -(-training.batch_size // size) * training.accumulate if size else 0
    keys = f"batch_size={size}, accumulate={times}" if size else "not even batch_size=1 fits"
    return f"({memory.bytes / 1e9:.3g} GB; {keys})"


def step_bytes(spec: Any, member: MemberStage, samples: int, *, half: bool = True) -> int:
    """The most bytes of tensors that are there at once in a training step of so many samples, from the second step on.

    `half`: under autocast.
    """
    training = member.training
    network = blueprint(spec, RECIPE).to("meta")
    freeze(network, training.frozen)
    rest(network.train(), training.frozen)
    inputs = member.step_inputs(network, samples, "meta")
    alive = _Alive()
    alive.hold([*network.parameters(), *network.buffers(), *tensors(inputs)])
    with alive:
        for _ in range(min(2, training.accumulate)):  # the second batch finds gradients of the first
            _there_and_back(network, inputs, half=half)
    kept = _kept(network, training)
    learning = _bytes(value for value in network.parameters() if value.requires_grad)
    stepping = alive.bytes + learning  # a square root for each that learns
    return kept + max(alive.most, stepping)


def _there_and_back(network: nn.Module, inputs: Any, *, half: bool) -> None:
    """Forwards, outputs in float32 as accelerate gives them, and backwards."""
    with torch.autocast("cpu", enabled=half), _Autocast() if half else nullcontext():  # a GRU asks whether there is any
        answers = tensors(asked(network, inputs))
        loss = torch.stack([value.float().sum() for value in answers if value.requires_grad]).sum()
    del answers
    loss.backward()  # type: ignore[no-untyped-call]


def _kept(network: nn.Module, training: Training) -> int:
    """Bytes that stay beside weights and gradients."""
    moments = KEPT[training.optimizer] * _bytes(value for value in network.parameters() if value.requires_grad)
    average = _bytes([*network.parameters(), *network.buffers()]) if training.ema_decay else 0
    return moments + average


def _bytes(values: Any) -> int:
    return sum(value.numel() * value.element_size() for value in values)


class _Autocast(TorchFunctionMode):
    """CUDA's autocast for tensors on `meta`, for which torch has none: products in half precision, what needs digits
    in float32, all else in whatever it is given (https://docs.pytorch.org/docs/stable/amp.html#autocast-op-reference).

    Weights are made half once a step. Fused attention keeps no table of weights, and adds no bias here.
    """

    _CONVOLUTIONS: Final = (torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose2d, torch.conv_transpose3d)
    _PRODUCTS: Final = (nnf.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, torch.mm, torch.einsum)
    _LAYERS: Final = (nnf.scaled_dot_product_attention, nnf.multi_head_attention_forward, torch.gru, torch.lstm)
    _NORMS: Final = (nnf.layer_norm, nnf.group_norm, nnf.normalize)
    _SOFTMAX: Final = (nnf.softmax, torch.softmax, Tensor.softmax, nnf.log_softmax)
    _SUMS: Final = (torch.sum, Tensor.sum, torch.cumsum, Tensor.cumsum)
    _POWERS: Final = (torch.exp, Tensor.exp, torch.log, Tensor.log, Tensor.pow, Tensor.__pow__, nnf.softplus)
    _IN: Final = dict.fromkeys((*_CONVOLUTIONS, *_PRODUCTS, *_LAYERS), torch.float16) | dict.fromkeys(
        (*_NORMS, *_SOFTMAX, *_SUMS, *_POWERS), torch.float32
    )

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[Tensor, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind = self._IN.get(func)
        if kind is not None:
            args, kwargs = tree_map_only(Tensor, partial(self._cast, kind), (args, kwargs))
        if func is nnf.scaled_dot_product_attention and args[0].ndim == 4:
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args[:3])[0]
        return func(*args, **(kwargs or {}))

    def _cast(self, kind: torch.dtype, value: Tensor) -> Tensor:
        if not value.is_floating_point() or value.dtype == kind:
            return value
        if not value.is_leaf:
            return value.to(kind)
        return self._made.setdefault(value, value.to(kind))


class _Alive(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, each once, however many tensors share it."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.most = 0  # now, and at most
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.hold(made)
        return made

    def hold(self, values: Any) -> None:
        """Count the storages of all tensors in a tree from now on, until they are gone."""
        for value in tree_leaves(values):
            if not isinstance(value, Tensor):
                continue
            storage = value.untyped_storage()
            place, size = storage._cdata, storage.nbytes()
            if place in self._known:
                continue
            self._known[place] = weakref.ref(storage, partial(self._release, place, size))
            self.bytes += size
            self.most = max(self.most, self.bytes)

    def _release(self, place: int, size: int, _: Any) -> None:
        del self._known[place]
        self.bytes -= size
