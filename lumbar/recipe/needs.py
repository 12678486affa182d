"""What graders' regions need of the keypoints that detectors find: a sentence for each that nobody finds. No torch."""

from collections.abc import Iterator, Mapping

from lumbar.labels import KEYPOINT_SERIES, SeriesType
from lumbar.recipe import sets
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.region import Region
from lumbar.recipe.views import OWN_VIEW, View, series_of


def faults(named: sets.Sets, detectors: Mapping[str, DetectorSpec], graders: Mapping[str, GraderSpec]) -> list[str]:
    """Why graders, by name, cannot cut what they ask for around what the detectors of their sets find."""
    told: dict[str, str] = {}
    for number, own in enumerate(sets.of(named, detectors)):
        here = {name: spec for name, spec in graders.items() if number in sets.around(named, spec)}
        for wrong, sentence in _around(own, here).items():
            told.setdefault(wrong, sentence)
    return list(told.values())


def _around(detectors: Mapping[str, DetectorSpec], graders: Mapping[str, GraderSpec]) -> dict[str, str]:
    """What is wrong with graders around one set of keypoints, and that with the name of the first of them."""
    pointing = [spec for spec in detectors.values() if spec.says_places]
    found = {kind for spec in pointing for kind in spec.types}
    sized = {kind for spec in pointing if spec.answer == "boxes" for kind in spec.types}
    trails = {kind for spec in pointing if spec.answer == "heatmaps" and spec.depth for kind in spec.types}
    ends = any(spec.ends for spec in pointing)
    told: dict[str, str] = {}
    for name, spec in graders.items():
        for view in spec.views or tuple(OWN_VIEW.values()):
            region = spec.region_of(view)
            for wrong in [
                *_wrong(view, region, found, sized, named=spec.task is None, ends=ends),
                *_no_trail(view, region, trails),
            ]:
                told.setdefault(wrong, f"{name}: {wrong}")
    return told


def _no_trail(view: View, region: Region, trails: set[SeriesType]) -> Iterator[str]:
    if region.follow and series_of(view) not in trails:
        yield (
            f"follow goes by where the point of {view} lies on each slice, and no detector of {series_of(view)} tells "
            "that; give one heatmaps with depth = true, or leave follow out"
        )


def _wrong(
    view: View, region: Region, found: set[SeriesType], sized: set[SeriesType], *, named: bool, ends: bool
) -> Iterator[str]:
    if region.around == "series":  # all of it is seen, whatever was found
        return
    kind = "sagittal_t2" if view == "sagittal_series" else series_of(view)
    if region.point == "canal" and "sagittal_t2" not in found:
        yield 'point = "canal" lies around the canal\'s points, and no detector finds points on sagittal_t2; add one'
    elif named and region.point != "canal" and kind not in found:
        yield f"no detector finds points on {kind}, around which its view {view} lies; add one, or leave the view out"
    if "own" in region.units and kind not in sized:
        yield (
            f'box = "own" is as large as the point of {view}, and no detector of {kind} tells sizes; give one '
            'answer = "boxes", or choose another box'
        )
    if ("disc" in region.units or region.rotate == "disc") and not ends:
        yield (
            'box = "disc" and rotate = "disc" go by both ends of discs, and no detector of sagittal_t2 tells the front '
            "ones; give one ends = true, or choose another box"
        )
    if region.towards_foramen and "sagittal_t1" not in found:
        yield "towards_foramen goes by the foramina's points, and no detector finds points on sagittal_t1; add one"
    if region.rotate == "canal" and "sagittal_t2" not in found:
        yield 'rotate = "canal" goes by the canal\'s points, and no detector finds points on sagittal_t2; add one'
    by_canal = region.around == "level" and kind == "axial_t2" and region.levels_by != "found"
    if by_canal and KEYPOINT_SERIES["spinal_canal_stenosis"] not in found:
        yield (
            'around = "level" takes the axial slices that cut a level\'s part of the canal, and no detector finds '
            'points on sagittal_t2; add one, or set levels_by = "found"'
        )
