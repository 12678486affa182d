"""A bundle's networks on a device: each member one of its own while memory lasts, else fold after fold through one; and
where not even one of each kind has room, those asked last."""

import threading
from collections.abc import Iterable
from typing import Final

import torch

from lumbar.bundle.bundle import Bundle
from lumbar.bundle.manifest import Member
from lumbar.bundle.network import blamed_on, example, noise, samples_of_a_study
from lumbar.compute.compiled import CompiledRunner, in_children
from lumbar.compute.engine import Engine, Runner, make_runner

#: Memory for networks on a CPU, bytes: the full ninth-place ensemble needs 10 GB in float32, Kaggle has 13 GB without
#: a GPU, and a run may be several processes.
CPU_ROOM: Final = 4 * 2**30
#: The same where one network of each kind is more than that: those asked one after the other hardly meet again there,
#: and what flows through large ones wants the memory.
CROWDED_ROOM: Final = 2**30
#: Bytes of weights from which on OpenVINO keeps compiled only what is being asked: it takes twice as much as they do.
LARGE: Final = 2**28
#: Share of an accelerator's free memory for networks; the rest is for what flows through them.
DEVICE_SHARE: Final = 0.6


class MovedError(Exception):
    """OpenVINO answers otherwise than PyTorch, or not at all."""


class Networks:
    """The networks of chosen members, by name, ready to be called.

    A member whose weights share a network with those of other folds is filled into it when it is asked for, so that
    asking member by member, with many studies each, costs least. Where one of each kind does not fit into the room,
    those that were not asked for longest give up their weights' memory (PyTorch's only).
    """

    def __init__(
        self,
        bundle: Bundle,
        names: Iterable[str],
        engine: Engine,
        device: torch.device,
        room: int | None = None,
        most_moved: float | None = None,
    ) -> None:
        """`room`: bytes for networks, exceeded only by one network that needs more, or where OpenVINO keeps one of each
        kind. Raises as `Bundle` does.

        `most_moved`: MovedError where OpenVINO's answers differ by more from PyTorch's.
        """
        self.bundle, self.engine, self.device = bundle, engine, device
        self._runners: dict[str, Runner | CompiledRunner] = {}
        self._first: dict[str, str] = {}  # kind → the member whose runner the kind shares
        self._holds: dict[str, str] = {}  # kind → the member whose weights that runner holds now
        self._own: dict[str, dict[str, torch.Tensor]] = {}  # kind → shapes of its state as built
        self._asked: set[str] = set()  # who was asked in this turn
        self._lock = threading.Lock()
        self._awake: dict[str, int] = {}  # kind → bytes of its weights in memory, the one asked last at the end
        self._room = left = _room(device) if room is None else room
        specs = {name: bundle.member(name).spec for name in names}
        self._kinds = {name: spec.model_dump_json() for name, spec in specs.items()}
        self._detectors = set(bundle.manifest.detectors)
        for name, kind in self._kinds.items():
            if kind not in self._first:
                self._build(bundle.member(name), kind)
        if engine.compiled:
            self._convert(most_moved)
        #: Whether one network of each kind is more than there is room for.
        self.crowded = len(self._awake) < len(self._first)
        if self.crowded and device.type == "cpu":
            self._room = min(self._room, CROWDED_ROOM)
            self._make_room(next(reversed(self._awake)))
        self.nbytes = sum(self._awake.values())
        left = 0 if self.crowded else left - self.nbytes
        for name, kind in self._kinds.items():
            runner = self._runners[self._first[kind]]
            if name not in self._runners and runner.nbytes <= left:
                left -= runner.nbytes
                self.nbytes += runner.nbytes
                self._runners[name] = runner.copy()
                self._fill(self._runners[name], name)
            elif name not in self._runners:
                bundle.state(name, self._own[kind])  # unsound weights are told now, and no study is blamed
        self.swaps = self.crowded or len(self._runners) < len(self._kinds)
        #: Whether member after member should be asked, with many studies each: for weights are swapped, or compiled.
        self.turns = self.swaps or (engine.compiled and self.nbytes > LARGE)

    def __getitem__(self, name: str) -> torch.nn.Module:
        """A member's network, its weights in place."""
        kind = self._kinds[name]
        first = self._first[kind]
        if self.turns:
            self._take_turns(name)
        if name in self._runners and name != first:
            return self._runners[name].network
        with self._lock:
            held = self._holds.get(kind)
            if held is None or self.crowded:
                self._make_room(kind)
            if held != name:
                self._fill(self._runners[first], name)
                self._holds[kind] = name
        return self._runners[first].network

    def _make_room(self, kind: str) -> None:
        """Let kinds rest until one more fits, those first that were not asked for longest; none where all have room."""
        runner = self._runners[self._first[kind]]
        needed = self._awake.pop(kind, runner.nbytes)
        for other in list(self._awake):
            if self.engine.compiled or sum(self._awake.values()) + needed <= self._room:
                break
            resting = self._runners[self._first[other]]
            assert isinstance(resting, Runner)
            resting.rest()
            del self._awake[other], self._holds[other]
        self._awake[kind] = needed

    def _take_turns(self, name: str) -> None:
        """Weight swapping: where memory is short, networks asked in the turn before release their compiled parts.

        A turn is one grader's, or all detectors' together, since a study asks these one after the other.
        """
        with self._lock:
            if not (name in self._asked or self._detectors.issuperset({name, *self._asked})):
                for before in self._asked:
                    (self._runners.get(before) or self._runners[self._first[self._kinds[before]]]).release()
                self._asked.clear()
            self._asked.add(name)

    def gflop(self) -> float:
        """The work of one study that lacks nothing; of networks that PyTorch computes."""
        total = 0.0
        for name, kind in self._kinds.items():
            runner = self._runners[self._first[kind]]
            assert isinstance(runner, Runner)
            total += runner.gflop * samples_of_a_study(self.bundle.member(name).spec)
        return total

    def stay(self, names: Iterable[str]) -> bool:
        """Whether these have networks of their own, which no other member's weights replace."""
        kinds = {self._kinds[name] for name in names}
        return not self.crowded and all(name in self._runners for name, kind in self._kinds.items() if kind in kinds)

    def call(self, name: str, batch: torch.Tensor) -> torch.Tensor:
        """A batch of stacks through a detector's network."""
        answer: torch.Tensor = self[name](batch)
        return answer

    def runners(self) -> list[Runner | CompiledRunner]:
        """Every network in memory."""
        return list(self._runners.values())

    def kind_of(self, network: torch.nn.Module) -> str:
        """What distinguishes a network's architecture from others, as text."""
        return next(self._kinds[name] for name, runner in self._runners.items() if runner.network is network)

    def _build(self, member: Member, kind: str) -> None:
        network = self.bundle.network(member.name, self.device)
        self._own[kind] = {key: value.to("meta") for key, value in network.state_dict().items()}
        sample = example(member.spec, next(network.parameters()).device)
        with blamed_on(str(self.bundle.folder / member.file), "does not take its own inputs", member.spec):
            self._runners[member.name] = make_runner(network, self.engine, sample)
        self._first[kind] = member.name
        self._make_room(kind)
        self._holds[kind] = member.name

    def _fill(self, runner: Runner | CompiledRunner, name: str) -> None:
        runner.fill(self.bundle.state(name, self._own[self._kinds[name]]), name)

    def _convert(self, most_moved: float | None) -> None:
        """Have every member's weights converted, as many at a time as there are cores, and fill the networks built."""

        def convert(name: str) -> float:
            kind = self._kinds[name]
            runner = self._runners[self._first[kind]]
            assert isinstance(runner, CompiledRunner)
            state = self.bundle.state(name, self._own[kind])
            if most_moved is None:
                runner.convert(state, name)
                return 0.0
            try:
                return runner.moved(state, name, noise(self.bundle.member(name).spec))
            except RuntimeError:  # OpenVINO cannot take it
                return float("inf")

        moved = max(in_children(convert, list(self._kinds)))
        if most_moved is not None and moved > most_moved:
            raise MovedError(f"OpenVINO's answers differ by {moved:.0e}")
        for name, runner in self._runners.items():
            self._fill(runner, name)


def _room(device: torch.device) -> int:
    if device.type == "cuda" and torch.cuda.is_available():
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, and used by nobody
        return int((torch.cuda.mem_get_info(device)[0] + kept) * DEVICE_SHARE)
    return CPU_ROOM
