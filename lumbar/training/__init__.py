"""Training: from a recipe and a data folder to a run, and from a run to a bundle."""
