"""Studies of a data folder with their labelled keypoints, and what graders train on of them."""

from functools import cache
from pathlib import Path

from lumbar.metric import label_codes
from lumbar.recipe.settings import Training
from lumbar.study.keypoint import Keypoint
from lumbar.study.study import DataFolder, Study, open_data, read_study
from lumbar.training.data.labelled import Name, label_keypoints, study_rows
from lumbar.training.data.packs import write_arrays
from lumbar.training.data.region_files import margin_spec, region_arrays
from lumbar.training.data.region_samples import RegionSamples
from tests.support.worlds import grader_spec


def labelled(data: DataFolder, number: int = 0) -> tuple[Study, dict[Name, Keypoint]]:
    """A study of a folder that nobody changes, read once, and its keypoints."""
    study, points = _read(data.root, number)
    return study, dict(points)


@cache
def _read(root: Path, number: int) -> tuple[Study, dict[Name, Keypoint]]:
    data = open_data(root, "train")
    study = read_study(data, data.study_ids[number])
    assert data.coordinates is not None
    return study, label_keypoints(study, study_rows(data.coordinates)[study.study_id])


def samples_of(data: DataFolder, folder: Path, task: str, **training: object) -> RegionSamples:
    """The samples of a small grader of that task, their regions kept in `folder`."""
    spec = grader_spec(task)
    assert data.labels is not None
    studies, codes = label_codes(data.labels)
    for number, study in enumerate(data.study_ids):
        arrays = region_arrays(*labelled(data, number), margin_spec(spec, 1.5))
        write_arrays(folder / f"{study}.safetensors", arrays)
    known = {int(study): code for study, code in zip(studies, codes, strict=True)}
    return RegionSamples(folder, data.study_ids, known, spec, Training(**training))
