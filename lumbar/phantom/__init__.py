"""Phantom studies: synthetic lumbar-spine MRI of known severity, as real DICOM in the competition layout."""
