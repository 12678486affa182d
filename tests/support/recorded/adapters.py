"""Which adapter reads a record."""

import re

from tests.support.recorded import fifth, first, fourth, second, seventh, sixth, third
from tests.support.recorded.record import Adapter, Record

#: Classes of records, and how each is read; None where one of the kind is not built here.
ADAPTERS = {
    **first.ADAPTERS,
    **second.ADAPTERS,
    **third.ADAPTERS,
    **fourth.ADAPTERS,
    **fifth.ADAPTERS,
    **sixth.ADAPTERS,
    **seventh.ADAPTERS,
}
#: Records that are no members: where they are compared.
ELSEWHERE = {r"SimpleModel ": "the blend `cells`, compared in test_by_hand.py"}


def adapter_of(record: Record) -> Adapter | None:
    """How a record is read, where its class is known."""
    return next((adapter for pattern, adapter in ADAPTERS.items() if re.match(pattern, record.kind)), None)
