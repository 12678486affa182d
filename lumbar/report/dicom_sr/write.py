"""A graded study as a DICOM Structured Report: TID 1500, one measurement group for each condition at each level.

A group holds the three probabilities, the likeliest severity, what the probabilities rest on, and the keypoint on the
slice where it was found, and says in codes and words what backs the severity. Nobody has read or signed it, and it says
so: PARTIAL, UNVERIFIED, PRELIMINARY, and a comment at its head. It is dated when it was made. It repeats of the patient
what DICOM wants of a report in the same study, and nothing is said of it elsewhere.
"""

import hashlib
import importlib.util
import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from lumbar import __version__
from lumbar.bundle.bundle import Bundle
from lumbar.files.write import check_replaceable, replacing, writing_into
from lumbar.issues import NOTICE, InputError
from lumbar.labels import CONDITIONS, LEVELS, SEVERITIES, Condition, Level, condition_title, level_title, side_of
from lumbar.prediction.result import StudyResult
from lumbar.recipe.evidence import UNKNOWN
from lumbar.report.dicom_sr import codes
from lumbar.report.dicom_sr.sources import Source, find_sources, first_of, nameless, repeat_study
from lumbar.study.study import DataFolder
from lumbar.submission import shown_shares
from lumbar.terminal.progress import follow

FOLDER: Final = "dicom_sr"
SERIES_DESCRIPTION: Final = "Lumbar grades, research use only"
#: Code of the container of all groups (PS3.16, DCM).
_GROUPS: Final = "126010"
#: Bytes before the prefix DICM.
_PREAMBLE: Final = 128
SERIES_NUMBER: Final = 9001  # far above those of scanners
STRANGE: Final = "The region looks like nothing that the graders learnt from; do not trust this severity."
UNSIGNED: Final = (
    "MADE BY SOFTWARE, READ AND SIGNED BY NOBODY. Preliminary output for research; it is no radiological report."
)


def check_available() -> None:
    """InputError where the optional package that writes reports is not installed."""
    if importlib.util.find_spec("highdicom") is None:
        raise InputError("structured reports need the package highdicom; install it with: pip install highdicom")


def check_out(out: Path, data: DataFolder) -> None:
    """InputError where a file stands in the place of a report that is none of ours, or where somebody verified it."""
    folder = Path(out) / FOLDER
    if os.path.lexists(folder) and not folder.is_dir():
        raise InputError(f"{folder}: is no folder, and reports are written into one of that name; rename it")
    for study_id in data.study_ids:
        check_replaceable(report_path(out, study_id), _is_report)


def report_path(out: Path, study_id: int) -> Path:
    """The file of a study's report."""
    return Path(out) / FOLDER / f"{study_id}.dcm"


def _is_report(path: Path) -> bool:
    """Whether a file begins with the signature of what comes behind it: ours, and nobody changed or verified it."""
    with path.open("rb") as stream:
        signature = stream.read(_PREAMBLE)
        return signature == _signature(stream.read())


def _signature(content: bytes) -> bytes:
    """What stands in the preamble, which DICOM leaves to programs: the SHA-256 of all that comes behind it."""
    return f"Lumbar report, SHA-256 {hashlib.sha256(content).hexdigest()}".encode().ljust(_PREAMBLE, b"\0")


def write_reports(
    results: Iterable[StudyResult], data: DataFolder, bundle: Bundle, out: Path, made: datetime | None = None
) -> tuple[list[Path], list[str]]:
    """Write `dicom_sr/<study>.dcm` into `out` for every study; returns the files, and a sentence for each left out.

    `made`: the date of the content, by default now; equal results of one moment give equal files. A study is left out
    where nothing of it could be read, or where its files do not say which study they belong to.
    """
    check_available()
    written, left_out = [], []
    made = made or datetime.now().astimezone()
    results = list(results)
    for result in follow(results, "writing structured reports", len(results)):
        try:
            report = make_report(result, data, bundle, made)
        except InputError as error:
            why = data.said(result.study_id, str(error))
            left_out.append(f"study {result.study_id} has no structured report: {why}")
            continue
        path = report_path(out, result.study_id)
        with writing_into(path.parent), replacing(path, _is_report) as temporary:
            report.save_as(temporary)
            content = temporary.read_bytes()[_PREAMBLE:]
            temporary.write_bytes(_signature(content) + content)
        written.append(path)
    return written, left_out


def make_report(result: StudyResult, data: DataFolder, bundle: Bundle, made: datetime) -> Dataset:
    """The report of one study, as a dataset to be saved. Raises InputError where it has no image to refer to."""
    import highdicom as hd

    study_id = result.study_id
    sources = find_sources(data, study_id, result.keypoints)
    evidence = list({str(source.evidence.SOPInstanceUID): source.evidence for source in sources.values()}.values())
    evidence = evidence or first_of(data, study_id, [number for listed in result.used.values() for number in listed])
    if not evidence:
        raise InputError("none of its images could be read; see the issues in the run report")
    if len({(one.get("PatientID"), one.StudyInstanceUID) for one in evidence}) > 1:
        raise InputError(
            f"{data.folder(study_id)}: its images are of several patients or studies, and a report is of one; make a "
            "study of each"
        )
    by_name = {(point.condition, point.level): (point, sources[point]) for point in sources}
    shares = shown_shares(result.probabilities)
    groups = [
        _group(result, shares, condition, level, by_name.get((condition, level)), evidence[0].StudyInstanceUID, bundle)
        for condition in CONDITIONS
        for level in LEVELS
    ]
    content = hd.sr.MeasurementReport(
        observation_context=_observer(bundle),
        procedure_reported=_concept(codes.PROCEDURE),
        imaging_measurements=groups,
    )
    items = content[0].ContentSequence
    first = next(place for place, item in enumerate(items) if item.ConceptNameCodeSequence[0].CodeValue == _GROUPS)
    for text in reversed(_head(result)):
        items.insert(first, _comment(text))
    date, time = made.strftime("%Y%m%d"), made.strftime("%H%M%S")
    identity = (evidence[0].StudyInstanceUID, bundle.identity)
    report = hd.sr.ComprehensiveSR(
        evidence=[nameless(one) for one in evidence],
        content=content[0],
        series_instance_uid=_uid("series", *identity),
        series_number=SERIES_NUMBER,
        sop_instance_uid=_uid("report", *identity, __version__, date + time, content[0].to_json()),
        instance_number=1,
        manufacturer="Lumbar",
        manufacturer_model_name="Lumbar",
        software_versions=__version__,
        device_serial_number=bundle.identity[:16],
        series_description=SERIES_DESCRIPTION,
        is_complete=False,
        is_final=False,
        is_verified=False,
        specific_character_set="ISO_IR 192",
    )
    repeat_study(report, evidence[0])
    report.CompletionFlagDescription = UNSIGNED[:64]
    report.ContentDate, report.ContentTime = date, time
    report.InstanceCreationDate, report.InstanceCreationTime = date, time
    for equipment in report.get("ContributingEquipmentSequence") or []:  # highdicom's own, stamped with the hour
        equipment.ContributionDateTime = date + time
    report.CodingSchemeIdentificationSequence = [codes.private_scheme()]
    return report


def _group(
    result: StudyResult,
    shares: np.ndarray,
    condition: Condition,
    level: Level,
    found: tuple[Any, Source] | None,
    study_uid: str,
    bundle: Bundle,
) -> Any:
    """One measurement group: TID 1410 with the keypoint as its region, TID 1501 without.

    `shares`: (5, 5, 3), the probabilities with the digits that they have in `submission.csv`.
    """
    import highdicom as hd

    row, column = CONDITIONS.index(condition), LEVELS.index(level)
    likeliest = SEVERITIES[int(np.argmax(result.probabilities[row, column]))]  # as all else says it, whatever rounds
    side = side_of(condition)
    basis = codes.OWN_VIEW if result.seen[row, column] else codes.OTHER_VIEWS
    common = {
        "tracking_identifier": hd.sr.TrackingIdentifier(
            uid=_uid("group", study_uid, bundle.identity, condition, level),
            identifier=f"{condition_title(condition)} {level_title(level)}",
        ),
        "finding_type": _concept(codes.CONDITION_CODES[condition]),
        "finding_sites": [
            hd.sr.FindingSite(
                _concept(codes.LEVEL_CODES[level]), laterality=_concept(codes.SIDE_CODES[side]) if side else None
            )
        ],
        "algorithm_id": hd.sr.AlgorithmIdentification("Lumbar", __version__, [f"bundle {bundle.identity}"]),
        "measurements": [
            hd.sr.Measurement(_concept(codes.PROBABILITY_CODES[severity]), float(value), _concept(codes.NO_UNITS))
            for severity, value in zip(SEVERITIES, shares[row, column], strict=True)
        ],
        "qualitative_evaluations": [
            hd.sr.QualitativeEvaluation(_concept(codes.EVIDENCE), _concept(_backing(result, condition))),
            hd.sr.QualitativeEvaluation(_concept(codes.SEVERITY), _concept(codes.SEVERITY_CODES[likeliest])),
            hd.sr.QualitativeEvaluation(
                _concept(codes.BASIS), _concept(basis if result.graded[row, column] else codes.PRIOR)
            ),
        ],
    }
    group = _with_place(common, found)
    group[0].ContentSequence.append(_comment(result.evidence.get(condition, UNKNOWN).says()))
    if result.strange[row, column]:
        group[0].ContentSequence.append(_comment(STRANGE))
    return group


def _with_place(common: dict[str, Any], found: tuple[Any, Source] | None) -> Any:
    """A group with the point on its image, with the image alone where the point lies beside it, or with neither."""
    import highdicom as hd

    if found is None:
        return hd.sr.MeasurementsAndQualitativeEvaluations(**common)
    point, source = found
    image = {
        "referenced_sop_class_uid": source.evidence.SOPClassUID,
        "referenced_sop_instance_uid": source.evidence.SOPInstanceUID,
        "referenced_frame_numbers": None if source.frame is None else [source.frame],
    }
    if not source.inside:
        return hd.sr.MeasurementsAndQualitativeEvaluations(
            **common, source_images=[hd.sr.SourceImageForMeasurementGroup(**image)]
        )
    # DICOM counts from the corner of the first pixel, our pixels from its centre
    place = np.array([point.xy_px], np.float64) + 0.5
    region = hd.sr.ImageRegion("POINT", place, hd.sr.SourceImageForRegion(**image))
    return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(**common, referenced_region=region)


def _observer(bundle: Bundle) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes as standard

    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=_uid("device", bundle.identity, __version__), name="Lumbar", model_name=f"Lumbar {__version__}"
    )
    return hd.sr.ObservationContext(
        observer_device_context=hd.sr.ObserverContext(
            observer_type=standard.DCM.Device, observer_identifying_attributes=device
        )
    )


def _head(result: StudyResult) -> list[str]:
    """What stands at the head of a report, for whoever reads no codes."""
    phantom = ["PHANTOM: synthetic images, no patient."] if result.phantom else []
    return [UNSIGNED, NOTICE, *phantom, f"Severities rest on: {result.rests_on()}."]


def _backing(result: StudyResult, condition: Condition) -> codes.Code:
    if result.phantom:
        return codes.PHANTOM
    return codes.TESTED if result.evidence.get(condition, UNKNOWN).on_patients else codes.UNTESTED


def _comment(text: str) -> Any:
    import highdicom as hd

    return hd.sr.TextContentItem(_concept(codes.COMMENT), text, hd.sr.RelationshipTypeValues.CONTAINS)


def _concept(code: codes.Code) -> Any:
    import highdicom as hd

    return hd.sr.CodedConcept(*code)


def _uid(*parts: str) -> str:
    """The same UID for the same parts."""
    return generate_uid(entropy_srcs=["lumbar structured report", *parts])
