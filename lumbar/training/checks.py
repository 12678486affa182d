"""Faults of a training folder, all of them at once, before anything is trained."""

from pathlib import Path

import pandas as pd

from lumbar.issues import InputError
from lumbar.labels import LABEL_COLUMNS
from lumbar.study import DataFolder, open_data


def open_checked(folder: Path) -> DataFolder:
    """A data folder with labels and keypoints whose tables and files hold together; InputError lists all faults."""
    data = open_data(folder, "train")
    check_data(data)
    return data


def check_data(data: DataFolder) -> None:
    """Raise InputError with every fault found; nothing where the folder can be trained on."""
    faults = find_faults(data)
    if faults:
        raise InputError(f"{data.root}: {len(faults)} fault(s): " + "; ".join(faults))


def find_faults(data: DataFolder) -> list[str]:
    """One sentence a fault: file and remedy."""
    faults = []
    if data.labels is None:
        faults.append("train.csv is missing: put the label table beside train_images")
    if data.coordinates is None:
        faults.append("train_label_coordinates.csv is missing: put the keypoint table beside train_images")
    if data.labels is not None and not set(data.labels.index) & set(data.study_ids):
        faults.append(
            "train.csv names none of the studies in train_series_descriptions.csv: these belong to other data"
        )
    if data.labels is not None and bool(pd.isna(data.labels[list(LABEL_COLUMNS)]).all(axis=None)):
        faults.append("train.csv holds no label at all")
    return faults
