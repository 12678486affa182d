"""A finished run of a tiny recipe, and the command that trains it."""

from pathlib import Path

import pytest

import train_utils
from lumbar.training.loop import loop
from lumbar.training.loop.loop import Job
from tests.support.tiny_recipe import tiny_recipe
from tests.support.worlds import small_phantoms

RECIPE = 'published = { "private leaderboard" = 0.39 }\n' + tiny_recipe(stage2={"any_severe_weight": 0.5})


class TrainsError(Exception):
    """The first job that would be trained."""


def trained(root: Path, recipe: str = RECIPE) -> Path:
    """In `root` a data folder, the recipe and the finished run of it."""
    small_phantoms(root / "data", 5, 3, {4: {"without_t1": True}})
    (root / "tiny.toml").write_text(recipe, encoding="utf-8")
    assert train(root) == 0
    return root


def train(root: Path, *more: str) -> int:
    """Train the recipe of `root`; the exit code."""
    words = ["--recipe", root / "tiny.toml", "--data", root / "data", "--out", root / "run", *more]
    return train_utils.main(["train", *map(str, words)])


def jobs_instead_of_training(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """From now on a job that would be trained is noted, and `TrainsError` raised with its name."""
    jobs: list[Job] = []

    def refuse(job: Job, *rest: object) -> None:
        jobs.append(job)
        raise TrainsError(f"{job.member} {job.fold}")

    monkeypatch.setattr(loop, "fit", refuse)
    return jobs
