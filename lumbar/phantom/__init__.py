"""Phantom studies: synthetic lumbar-spine MRI of known severity, as real DICOM in the competition layout."""

from lumbar.phantom.dataset import write_phantoms
from lumbar.phantom.options import PhantomOptions

__all__ = ["PhantomOptions", "write_phantoms"]
