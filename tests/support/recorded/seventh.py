"""The seventh place's recorded networks as specs of ours."""

from tests.support.recorded.record import Adapter
from tests.support.recorded.regressor import regressor

#: By the beginning of a class's name.
ADAPTERS: dict[str, Adapter] = {
    r"RSNA24Model_Keypoint_2D": lambda record: regressor(record, "model.classifier.", "model.", "out"),
}
