"""A bundle learns what regions look like from a folder of studies such as its graders were trained on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.bundle.save import with_likenesses
from lumbar.compute.device import Say, choose_device
from lumbar.grading.likeness import LEAST_STUDIES, Features, learn, learns_from
from lumbar.issues import InputError
from lumbar.metric import UNLABELLED, label_codes
from lumbar.prediction.case import Case
from lumbar.prediction.predictor import Predictor
from lumbar.study.folder import open_folder
from lumbar.study.study import DataFolder, Study, read_study
from lumbar.terminal.progress import bar

#: Studies that are looked at: a level of each, and few kinds of view have fewer regions than `MOST_REGIONS` of them.
MOST_STUDIES: Final = 400


def add_likenesses(
    folder: Path, studies: Path, split: str | None = None, device: str | None = None, *, say: Say = print
) -> Bundle:
    """Put the likenesses of these studies' regions into the bundle of a folder, in the place of those that it had.

    `split` as for `open_folder`, `device` as for `choose_device`. Of a folder with labels each grader learns from the
    studies that have one for it. Raises InputError where nothing can be learnt: too few studies, or no grader that
    offers its features.
    """
    bundle, data = load_bundle(folder), open_folder(studies, split)
    predictor = Predictor(bundle, choose_device(device, say=say).device, listens=True)
    codes = known_labels(data)
    features, exchanged = listen(
        predictor, data, chosen([one for one in data.study_ids if codes is None or one in codes])
    )

    def learnt_from(name: str, heard: Mapping[str, list[tuple[int, Features]]]) -> list[Features]:
        spec = bundle.manifest.graders[name]
        return [own for study, own in heard[name] if codes is None or learns_from(spec, codes[study])]

    found = {
        name: learn(learnt_from(name, features), spec, learnt_from(name, exchanged))
        for name, spec in bundle.manifest.graders.items()
    }
    if not any(found.values()):
        raise InputError(
            f"{data.root}: nothing was learnt of its regions; give {LEAST_STUDIES} studies or more that show a spine, "
            "and a bundle with a grader that offers its features"
        )
    return with_likenesses(bundle, found)


def chosen(study_ids: Sequence[int]) -> list[int]:
    """At most `MOST_STUDIES` of them, evenly spread."""
    places = np.unique(np.linspace(0, len(study_ids) - 1, MOST_STUDIES).astype(int)) if study_ids else []
    return [study_ids[place] for place in places]


def known_labels(data: DataFolder) -> dict[int, np.ndarray] | None:
    """Label codes (5, 5) of the studies that have a label; None of a folder without labels, where all count."""
    if data.labels is None:
        return None
    studies, codes = label_codes(data.labels)
    return {int(study): own for study, own in zip(studies, codes, strict=True) if (own != UNLABELLED).any()}


Heard = dict[str, list[tuple[int, Features]]]


def listen(predictor: Predictor, data: DataFolder, study_ids: Sequence[int]) -> tuple[Heard, Heard]:
    """What backbones say of each study's regions, by grader, and what with T1 and T2 in each other's place; a study
    that cannot be read plays no part."""
    as_it_is: Heard = {name: [] for name in predictor.graders}
    exchanged: Heard = {name: [] for name in predictor.graders}
    shown = bar("looking at regions", len(study_ids))
    for study_id in study_ids:
        shown.update()
        try:
            study = read_study(data, study_id)
            both = [_heard(predictor, each) for each in (study, study.weightings_exchanged())]
        except InputError:
            continue
        for found, features in zip((as_it_is, exchanged), both, strict=True):
            for name, own in features.items():
                found[name].append((study_id, own))
    shown.close()
    return as_it_is, exchanged


def _heard(predictor: Predictor, study: Study) -> Mapping[str, Features]:
    """What backbones say of a study's regions, by grader."""
    case = Case(study.study_id, study, list(study.issues))
    for step in predictor.steps():
        predictor.take(step, case)
    return case.features
