"""Study → keypoints → regions → probabilities: the only place where the two stages meet."""

import logging
import threading
import time
from collections.abc import Iterable
from functools import partial
from typing import Final

import numpy as np
import torch

from lumbar.bundle.bundle import Bundle
from lumbar.compute import compiled
from lumbar.compute.engine import choose_engine
from lumbar.compute.forward import Network, exact_convolutions, is_device_fault
from lumbar.grading import grade
from lumbar.grading.likeness import Features, strangeness
from lumbar.grading.regions import cut_all_regions, region_key
from lumbar.issues import InputError, Issue, cut, few
from lumbar.keypoints import detect
from lumbar.labels import CONDITIONS
from lumbar.prediction import networks
from lumbar.prediction.blend import BundleBlend
from lumbar.prediction.budget import Budget, enough, ranked_graders
from lumbar.prediction.case import Case, Step
from lumbar.prediction.networks import MovedError
from lumbar.prediction.result import StudyResult, left_out, not_finite, unlike
from lumbar.recipe import sets
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.evidence import complete
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.views import OWN_VIEW
from lumbar.study.study import Study

#: Studies that go through stage 2 together where weights are swapped; swapping then costs some percent of a study.
TOGETHER: Final = 8
_log = logging.getLogger(__name__)


class Predictor:
    """A bundle's networks on a device, ready for one study after another.

    `engine` says how networks run, see `lumbar.compute.engine`; `amp` is the autocast type that suits the device (None:
    float32 unless the engine says otherwise). How many `studies` are to come decides whether `auto` has OpenVINO
    compute. `room`: bytes for networks, by default what the device has to spare. `listens`: cases keep all graders'
    features, and not only of those whose likeness the bundle holds. Raises InputError where the bundle lacks a stage.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: torch.device | str = "cpu",
        amp: torch.dtype | None = None,
        engine: str = "auto",
        studies: int = 1,
        room: int | None = None,
        listens: bool = False,
    ) -> None:
        self.bundle, self.word, self.studies, self.room = bundle, engine, studies, room
        self.prior = np.asarray(bundle.manifest.prior, dtype=np.float64)  # (5, 5, 3)
        self.graders = bundle.manifest.graders
        self.evidence = complete(bundle.manifest.card.evidence)
        if not self.graders or not bundle.manifest.detectors:
            raise InputError(
                f"{bundle.folder}: the bundle lacks {'detectors' if self.graders else 'graders'}; "
                "prediction needs both stages, make the bundle from a run that finished them"
            )
        self._lock = threading.Lock()
        self.blend = BundleBlend(bundle, list(self.graders))
        #: What each grader's regions looked like in training, of those of which that is known.
        self.likenesses = {name: found for name in self.graders if (found := bundle.likenesses(name))}
        #: Graders whose features a case keeps.
        self.listened = set(self.graders if listens else self.likenesses)
        #: The numbers of the sets of keypoints around which each grader answers.
        self.around = {name: sets.around(bundle.manifest.sets, spec) for name, spec in self.graders.items()}
        #: Graders that are asked, the most valuable first, and the seconds that each has taken so far.
        self.at_work, self.spent = ranked_graders(bundle.manifest), dict.fromkeys(self.graders, 0.0)
        try:
            self._load(torch.device(device), amp)
        except RuntimeError as error:
            if not is_device_fault(error, torch.device(device)):
                raise
            self._go_on_without(torch.device(device), error)

    def _load(self, device: torch.device, amp: torch.dtype | None) -> None:
        """Every member's network on the device."""
        self.device = device
        self.engine = choose_engine(self.word, device, amp)
        detectors = self.bundle.manifest.detectors
        names = [*detectors, *self.graders]  # what stays in memory: detectors first
        self.networks = networks.Networks(self.bundle, names, self.engine, device, self.room)
        if self.word == "auto" and device.type == "cpu" and not torch.cuda.is_initialized():
            self._let_openvino(names)
        self.together = TOGETHER if self.networks.turns else 1
        #: Studies that may be computed side by side: where one has the whole device, a single one.
        shared = device.type != "cpu" or not self.networks.stay(detectors)
        self.lanes = 1 if shared else torch.get_num_threads()
        self._shared = shared
        #: Of each set of keypoints, in the order of the manifest.
        self.detectors: list[list[tuple[DetectorSpec, Network]]] = [
            [(spec, partial(self.networks.call, name)) for name, spec in own.items()]
            for own in sets.of(self.bundle.manifest.sets, detectors)
        ]

    def _let_openvino(self, names: list[str]) -> None:
        """Have OpenVINO compute in PyTorch's place, where that pays and moves nothing."""
        if self.networks.crowded or not compiled.pays(self.studies * self.networks.gflop(), len(names)):
            return
        del self.networks  # before others take as much memory
        engine = choose_engine("openvino", self.device)
        try:
            self.networks = networks.Networks(
                self.bundle, names, engine, self.device, self.room, most_moved=compiled.MOST_MOVED
            )
            self.engine = engine
        except MovedError as error:
            _log.warning("%s; PyTorch computes.", error)
            self.networks = networks.Networks(self.bundle, names, self.engine, self.device, self.room)

    @property
    def alone(self) -> bool:
        """Whether copies of this process may share the studies: on a CPU, with all networks in memory."""
        return not (self._shared or self.networks.turns or (self.engine.compiled and compiled.started.is_set()))

    def __call__(self, study: Study) -> StudyResult:
        """Keypoints, regions and probabilities of one study. Raises InputError where no series can be used."""
        case = Case(study.study_id, study, list(study.issues))
        for step in self.steps():
            self.take(step, case)
        return self.result(case)

    def steps(self) -> list[Step]:
        """What is to be done with a study, in this order: both stages, the second one member by member."""
        asked = [partial(self._ask, name, spec) for name, spec in self.graders.items() if name in self.at_work]
        return [self._look, *asked]

    def take(self, step: Step, case: Case) -> None:
        """One step with one study; where the accelerator fails, this and all that follows is done by the CPU."""
        started = time.perf_counter()
        try:
            with exact_convolutions(self.device, self.engine.amp):
                step(case)
            sentence = ""
        except RuntimeError as error:
            if not is_device_fault(error, self.device):
                raise
            sentence = self._go_on_without(self.device, error)
        if sentence:
            case.device_failed.append(Issue("device_failed", case.study_id, None, sentence))
            step(case)
        case.seconds += time.perf_counter() - started

    def _go_on_without(self, device: torch.device, error: RuntimeError) -> str:
        """Load everything on the CPU, from the files, since a broken device gives nothing back; says so."""
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        sentence = f"{device} failed ({reason}); the CPU goes on, which is slower."
        _log.warning("%s", sentence)
        self.word = "auto" if "half" in self.word else self.word
        self._load(torch.device("cpu"), None)
        return sentence

    def _look(self, case: Case) -> None:
        """Stage 1 and the regions of every kind; the study's pixels are let go."""
        study = case.study
        assert study is not None
        if not any(study.series.values()):
            details = dict.fromkeys(cut(issue.detail, 90) for issue in study.issues)
            reasons = few(list(details), 2) or "it holds no series"
            raise InputError(f"study {study.study_id}: no usable series ({reasons}); check its folder and tables")
        for number, detectors in enumerate(self.detectors):
            points, issues = detect.detect(study, detectors, self.device, self.engine.amp)
            by_name = {(keypoint.condition, keypoint.level): keypoint for keypoint in points}
            around = [spec for name, spec in self.graders.items() if number in self.around[name]]
            regions = cut_all_regions(study, by_name, around)
            if not number:  # what is shown is the first set's
                case.keypoints, case.issues, case.regions = points, [*study.issues, *issues], []
            if not number or any(own[0] == number for own in self.around.values()):  # of others nothing new is told
                cut_issues = [issue for found in regions.values() for issue in found.issues]
                told = cut_issues if not number else [*issues, *cut_issues]
                case.issues += [issue for issue in dict.fromkeys(told) if issue not in case.issues]
            case.regions.append({key: found.without_cuts() for key, found in regions.items()})
        case.phantom = study.is_phantom
        case.used = {kind: [series.series_id for series in listed] for kind, listed in study.series.items()}
        case.study = None

    def _ask(self, name: str, spec: GraderSpec, case: Case) -> None:
        """One member's answer."""
        started = time.perf_counter()
        key = region_key(spec)
        network, answers = self.networks[name], []
        features: Features = []
        heard = (features,) if name in self.listened else ()
        unanswered = np.zeros(self.prior.shape[:2], dtype=bool)
        for number in self.around[name]:
            regions, place = case.regions[number][key], f"{self.device} {number} {key}"
            batches = case.batches.setdefault(place, {}) if self.device.type != "cpu" else None
            answers.append(grade.grade(regions, spec, network, self.device, self.engine.amp, batches, *heard))
            unanswered |= grade.unanswered(regions, spec, answers[-1])
        if unanswered.any():
            case.unanswered[name] = unanswered
        case.answers[name] = grade.averaged(answers)
        if heard:
            case.features[name] = features
        with self._lock:
            self.spent[name] += time.perf_counter() - started

    def result(self, case: Case) -> StudyResult:
        """What a study came to: its blend, or the prior where a step failed."""
        if case.error is not None:
            return self.stand_in(case.study_id, case.reason, case.issues)
        silent = np.full(self.prior.shape, np.nan)
        logits = np.stack([case.answers.get(name, silent) for name in self.graders])
        members = grade.softmax(logits)
        seen = np.zeros(self.prior.shape[:2], dtype=bool)
        for number, by_kind in enumerate(case.regions):
            for name, spec in self.graders.items():
                if number in self.around[name]:
                    seen |= grade.sees(by_kind[region_key(spec)], spec)
            for part in by_kind.values():  # a view may be there that nobody is asked about
                for row, condition in enumerate(CONDITIONS):
                    seen[row] |= part.present.get(OWN_VIEW[condition], np.zeros(1, dtype=bool))
        blended, graded = self.blend(members)
        strange = strangeness(case.features, self.graders, self.likenesses)
        return StudyResult(
            study_id=case.study_id,
            probabilities=blended,
            members=members,
            logits=logits,
            graded=graded,
            seen=seen,
            strangeness=strange,
            keypoints=tuple(case.keypoints),
            issues=(
                *case.issues,
                *not_finite(case.study_id, case.unanswered, graded, str(self.engine)),
                *left_out(case.study_id, graded, seen),
                *unlike(case.study_id, graded, strange),
                *case.device_failed,
            ),
            used=case.used,
            phantom=case.phantom,
            evidence=self.evidence,
            seconds=case.seconds,
            ran_on=f"{self.device}, {self.engine}",
            dropped=tuple(name for name in self.graders if name not in case.answers),
        )

    def keep_time(self, budget: Budget, done: int, left: int, lanes: int) -> None:
        """After `done` more studies, `lanes` side by side: drop members that `left` more leave no time for."""
        budget.finished(done, {name: seconds / lanes for name, seconds in self.spent.items()})
        dropped = budget.surplus(left, self.at_work, partial(enough, self.bundle.manifest))
        if dropped:
            _log.warning("Dropped to end in time: %s.", ", ".join(dropped))
            self.at_work = [name for name in self.at_work if name not in dropped]

    def stand_in(
        self, study_id: int, reason: str, issues: Iterable[Issue] = (), code: str = "study_failed"
    ) -> StudyResult:
        """The weighted prior for a study that could not be graded, with the reason as an Issue."""
        return StudyResult(
            study_id=study_id,
            probabilities=self.prior.copy(),
            members=np.full((len(self.graders), *self.prior.shape), np.nan),
            logits=np.full((len(self.graders), *self.prior.shape), np.nan),
            graded=np.zeros(self.prior.shape[:2], dtype=bool),
            seen=np.zeros(self.prior.shape[:2], dtype=bool),
            issues=(*issues, Issue(code, study_id, None, reason)),
            evidence=self.evidence,
            failed=True,
        )
