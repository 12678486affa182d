"""A member's network from its spec: built without memory to see what it would take, or for good; and tried out."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any, Final

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from lumbar.compute.forward import Inputs, asked, is_device_fault, mapped, moved
from lumbar.grading.networks.registry import build_grader
from lumbar.grading.tasks import task_of
from lumbar.grading.turns import looks
from lumbar.issues import InputError
from lumbar.keypoints.networks.registry import build_detector
from lumbar.labels import LEVELS
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.wording import why_refused

#: Memory in float32 that one network may take: ten times what the largest of the ninth place takes.
MAX_BYTES: Final = 2**32
#: The source of a network that no bundle holds yet.
RECIPE: Final = "the recipe"
_NOT_TAKEN: Final = "does not take its own inputs"
#: What building or calling a network raises where its spec makes no sense.
_NONSENSE: Final = (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, TypeError, ValueError)


class _NothingDrawn(TorchFunctionMode):
    """Building a network inside leaves out the random numbers that its weights begin with."""

    _DRAWS: Final = frozenset(
        [getattr(nn.init, f"{kind}_") for kind in ("uniform", "normal", "kaiming_uniform", "kaiming_normal")]
        + [nn.init.xavier_uniform_, nn.init.xavier_normal_]
        + [torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.erfinv_]
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self._DRAWS or (func is torch.Tensor.clamp_ and args[0].is_meta):  # which takes long for nothing
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


class _Detectors:
    """What a network of stage 1 is built by, and what it sees of a study."""

    build = staticmethod(build_detector)

    @staticmethod
    def example(spec: DetectorSpec, device: torch.device | str, samples: int) -> Inputs:
        return torch.zeros(samples, spec.channels, spec.image_size, spec.image_size, device=device)

    @staticmethod
    def samples(spec: DetectorSpec) -> int:
        return spec.stacks


class _Graders:
    """The same of stage 2."""

    build = staticmethod(build_grader)

    @staticmethod
    def example(spec: GraderSpec, device: torch.device | str, samples: int) -> Inputs:
        names = task_of(spec).samples[0].views
        levels, views = len(LEVELS) if spec.levels == "all" else 1, {}
        for name in names:
            region = spec.region_of(name)
            views[str(name)] = torch.zeros(samples, levels, region.slices, region.channels, *region.size, device=device)
        return views, torch.ones(samples, levels, len(names), dtype=torch.bool, device=device)

    @staticmethod
    def samples(spec: GraderSpec) -> int:
        seen = len(task_of(spec).samples) * len(looks(spec))
        return seen * (2 if "sagittal_series" in spec.views else 1) * (1 if spec.levels != "one" else len(LEVELS))


#: The stages by the word that specs and manifests have for them.
_STAGES: Final[Mapping[str, Any]] = {"keypoints": _Detectors, "grading": _Graders}


def build_network(spec: DetectorSpec | GraderSpec) -> nn.Module:
    """The network of either stage's spec, with random weights."""
    network: nn.Module = _STAGES[spec.stage].build(spec)
    return network


def blueprint(spec: DetectorSpec | GraderSpec, source: str) -> nn.Module:
    """The network without memory for its weights (on torch's `meta` device): keys, shapes and types.

    One that reckons with numbers while it is built, as timm's RegNets do, takes its memory. Raises InputError where the
    spec cannot be built.
    """
    with _NothingDrawn(), blamed_on(source, "cannot be built", spec):
        try:
            with torch.device("meta"):
                return build_network(spec)
        except (InputError, RuntimeError) as error:
            if not _wants_numbers(error):
                raise
        return build_network(spec)


def _wants_numbers(error: BaseException | None) -> bool:
    """Whether an error, or what led to it, speaks of the `meta` device, which has no numbers."""
    return error is not None and ("meta" in str(error).lower() or _wants_numbers(error.__cause__ or error.__context__))


def unfilled(claimed: nn.Module, spec: DetectorSpec | GraderSpec, device: torch.device | str) -> nn.Module:
    """A `blueprint` with memory on a device, for weights that are still to be filled in: nothing is drawn for them.

    Where a network holds tables that its state dict lacks, building it works them out; any other is `claimed` itself.
    """
    stored = claimed.state_dict()
    if all(name in stored for name, _ in claimed.named_buffers()) and not _hides_tensors(claimed):
        return claimed._apply(lambda value: torch.empty(value.shape, dtype=value.dtype, device=device))
    with _NothingDrawn():
        return build_network(spec).to(device)


def _hides_tensors(network: nn.Module) -> bool:
    """Whether some module holds a tensor that is neither weight nor buffer."""
    values = chain.from_iterable(vars(module).values() for module in network.modules())
    each = chain.from_iterable(value if isinstance(value, list | tuple) else [value] for value in values)
    return any(isinstance(one, torch.Tensor) and not isinstance(one, nn.Parameter) for one in each)


def check_size(network: nn.Module, source: str) -> None:
    """Raise InputError where a network, on whatever device, needs more than `MAX_BYTES` for weights and tables."""
    needed = 4 * sum(value.numel() for value in chain(network.parameters(), network.buffers()))
    if needed > MAX_BYTES:
        raise InputError(
            f"{source}: the network would need {needed / 2**30:.0f} GB of memory, more than the {MAX_BYTES >> 30} "
            f"GB that any may take; make its numbers smaller{_or_again(source)}"
        )


def _or_again(source: str) -> str:
    """What else helps where the settings are not the reader's own."""
    return "" if source == RECIPE else ", or get the bundle again"


def example(spec: DetectorSpec | GraderSpec, device: torch.device | str = "cpu", samples: int = 1) -> Inputs:
    """A member's input for so many samples, all zeros, every view there."""
    inputs: Inputs = _STAGES[spec.stage].example(spec, device, samples)
    return inputs


def samples_of_a_study(spec: DetectorSpec | GraderSpec) -> int:
    """How many samples a member sees of a study that lacks nothing."""
    return int(_STAGES[spec.stage].samples(spec))


def noise(spec: DetectorSpec | GraderSpec, samples: int = 1) -> Inputs:
    """A member's input for so many samples, noise that is standardised as images are; always the same."""
    drawn = torch.Generator().manual_seed(0)

    def change(value: torch.Tensor) -> torch.Tensor:
        return torch.randn(value.shape, generator=drawn) if value.is_floating_point() else value

    inputs: Inputs = mapped(change, example(spec, samples=samples))
    return inputs


def try_out(network: nn.Module, spec: DetectorSpec | GraderSpec, source: str) -> None:
    """Ask a network in evaluation mode once, about noise that is standardised as images are.

    Raises InputError where it cannot take inputs of the size that its spec gives, or answers anything but numbers.
    """
    with torch.inference_mode(), blamed_on(source, _NOT_TAKEN, spec):
        answer = asked(network, moved(noise(spec), next(network.parameters()).device))
    if not answer.isfinite().all():
        raise InputError(f"{source}: the network's answer to noise is no number; get the weights again or train again")


def check_inputs(network: nn.Module, spec: DetectorSpec | GraderSpec, source: str) -> None:
    """Ask a `blueprint` about an input of its spec's size, without numbers or memory; InputError where it cannot be.

    What cannot be known without numbers passes.
    """
    with torch.inference_mode(), blamed_on(source, _NOT_TAKEN, spec):
        try:
            asked(network.eval(), example(spec, "meta"))
        except RuntimeError as error:
            if not isinstance(error, NotImplementedError) and "meta" not in str(error):
                raise


@contextmanager
def blamed_on(source: str, what: str, spec: DetectorSpec | GraderSpec) -> Iterator[None]:
    """What building or asking a network raises becomes an InputError of the source; what a device raises goes on."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    except (RuntimeError, *_NONSENSE) as error:
        if is_device_fault(error, torch.device("cuda")):
            raise
        reason = why_refused(error, spec.given)
        raise InputError(
            f"{source}: the network on {spec.named_backbone} {what} ({reason}); correct its settings{_or_again(source)}"
        ) from error
