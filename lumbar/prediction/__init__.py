"""From a data folder and a bundle to results: read, both stages, blended, kept study by study, brought together."""
