"""The sixth place's recorded networks as specs of ours."""

from tests.support.recorded.record import Adapter, Ours, Record
from tests.support.recorded.regressor import regressor


def _flat(record: Record) -> Ours | None:
    if "head_3d" in record.ctor:
        return None
    return regressor(record, "logits.", "encoder.", "logits")


#: By the beginning of a class's name.
ADAPTERS: dict[str, Adapter] = {
    r"ClsModel ": _flat,
    r"Net \(mdl_dh_4a2\)": lambda record: regressor(record, "head.", "backbone.", "logits", 255.0),
}
