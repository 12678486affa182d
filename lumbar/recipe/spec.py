"""What the specs of both stages say of their networks in the same words. No torch."""

from typing import Any, ClassVar, Protocol

from lumbar.recipe.strict import Strict


class _Network(Protocol):
    """What a spec of either stage has; a detector calls its backbone an encoder in the recipe."""

    DOES: ClassVar[str]
    BACKBONE: ClassVar[str]

    @property
    def subject(self) -> str: ...
    @property
    def network(self) -> str: ...
    @property
    def backbone(self) -> str: ...
    @property
    def backbone_args(self) -> dict[str, Any]: ...
    @property
    def network_args(self) -> dict[str, Any]: ...
    @property
    def image_size(self) -> int: ...


class Spec(Strict):
    """A network of either stage: what it sees, and what it answers."""

    #: What it does, before its subject; what its recipe calls its backbone.
    DOES: ClassVar[str]
    BACKBONE: ClassVar[str]

    @property
    def named_backbone(self: _Network) -> str:
        """Its backbone, as a sentence names it."""
        return f"{self.BACKBONE} {self.backbone!r}"

    @property
    def given(self: _Network) -> dict[str, object]:
        """What its recipe says to the libraries that build the network."""
        return {**self.backbone_args, **self.network_args, "image_size": self.image_size}

    @property
    def what(self: _Network) -> str:
        """What it does, in a few words."""
        return f"{self.DOES} {self.subject}, {self.network} on {self.backbone}"
