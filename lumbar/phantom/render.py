"""Pictures of a phantom: tissue maps at slice points, thickness, grain, blur, coil shading and noise."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from lumbar.phantom.anatomy import Anatomy
from lumbar.phantom.body import paint_body
from lumbar.phantom.paint_spine import paint_spine
from lumbar.phantom.scan import Plane, SeriesPlan
from lumbar.phantom.surface_coil import PARTS, Part, SurfaceCoil, darkened, draw_surface_coil
from lumbar.phantom.tissue import FAT, MUSCLE, NONE, signal_table
from lumbar.phantom.wobble import Wobble, spread

#: Tissue labels of a slice: per sub-slice the body (half size), then the spine; flat numbers of the spine's pixels.
Maps = tuple[list[np.ndarray], list[np.ndarray], np.ndarray]
#: Sub-slices: place within the thickness (share) and in-plane jitter (pixels), which together smooth edges.
_SUBS = ((-0.34, -0.25, 0.25), (0.0, 0.25, -0.25), (0.34, 0.0, 0.0))


@dataclass(frozen=True)
class Camera:
    """How one series looks: all drawn once per series."""

    signal: np.ndarray  # (256,)
    grain: np.ndarray  # (256,)
    streaks: float  # how much fat shines in the muscles
    blur: float  # px
    noise: float  # relative to the bright end
    coil: np.ndarray  # (5,): centre y, z offsets, reach, floor, tilt
    saturated_front: tuple[float, float]  # y offset from the spine where a band begins; what it leaves
    peak: float  # stored value of signal 1
    gamma: float  # of the contrast
    border: float  # share of the columns on each side that the scanner leaves black
    surface: SurfaceCoil | None = None  # instead of `coil` and `saturated_front`


def draw_camera(rng: np.random.Generator, person: Anatomy, series: SeriesPlan) -> Camera:
    """Contrast, sharpness, noise and coil of one series."""
    signal, grain = signal_table(person.look, series.weighting, rng)
    band = rng.random() < (0.45 if series.description != "Axial T2" else 0.15)
    return Camera(
        signal=signal,
        grain=grain,
        streaks=float(person.look.muscle_fat * max(signal[FAT] - signal[MUSCLE], 0)),
        blur=float(rng.uniform(0.5, 0.85)),
        noise=float(np.exp(rng.uniform(np.log(0.008), np.log(0.045)))),
        coil=np.array([rng.uniform(10, 50), rng.uniform(-60, 60), rng.uniform(90, 190), rng.uniform(0.15, 0.5), 0.0]),
        saturated_front=(float(rng.uniform(-75, -50)), float(rng.uniform(0.1, 0.5)) if band else 1.0),
        peak=float(rng.uniform(350, 1400)),
        gamma=float(rng.uniform(0.85, 1.2)),
        border=float(rng.uniform(0.04, 0.12)) if rng.random() < 0.15 else 0.0,
    )


def with_surface_coil(
    camera: Camera, rng: np.random.Generator, person: Anatomy, parts: tuple[Part, ...] = PARTS
) -> Camera:
    """The camera of an axial series, looking as a surface coil makes it; `parts` of that look alone where given."""
    signal = camera.signal
    if "tissue" in parts:
        signal = darkened(rng, signal, len(person.look.marrow), len(person.look.hydration))
    noise = camera.noise * 0.5  # relative to the bright end, which is far brighter than the spine
    streaks = camera.streaks + float(rng.uniform(0, 0.3)) * float(signal[FAT])
    coil = draw_surface_coil(rng, parts)
    return replace(camera, signal=signal, noise=noise, streaks=streaks, surface=coil)


def _points(plane: Plane, columns: np.ndarray, rows: np.ndarray, depth: float) -> np.ndarray:
    """Patient points (N, 3) float32 of pixel places, `depth` mm along the normal."""
    base = np.stack([plane.spacing * plane.row, plane.spacing * plane.column, plane.position + depth * plane.normal])
    return np.stack([columns, rows, np.ones_like(rows)], axis=1) @ base.astype(np.float32)


def _coarse_grid(plane: Plane) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Places of every second pixel pair: columns, rows and the shape of the half-size picture."""
    shape = ((plane.pixels[0] + 1) // 2, (plane.pixels[1] + 1) // 2)
    rows, columns = np.divmod(np.arange(shape[0] * shape[1], dtype=np.int32), shape[1])
    return (2 * columns + 0.5).astype(np.float32), (2 * rows + 0.5).astype(np.float32), shape


def _moved(wobble: Wobble, plane: Plane, shape: tuple[int, int]) -> np.ndarray:
    """Displacement (rows × columns of `shape`, 3) over a slice, worked out on a grid eight times coarser."""
    small = (plane.pixels[0] // 8 + 1, plane.pixels[1] // 8 + 1)
    rows, columns = np.divmod(np.arange(small[0] * small[1]), small[1])
    step = (np.array(plane.pixels) / np.array(small)).astype(np.float32)
    at = _points(plane, (columns + np.float32(0.5)) * step[1], (rows + np.float32(0.5)) * step[0], 0.0)
    return spread(wobble.at(at).reshape(*small, 3), shape)


def tissue_maps(person: Anatomy, plane: Plane, thickness: float) -> Maps:
    """Tissue labels of one slice."""
    columns, rows, shape = _coarse_grid(plane)
    course = person.body.course
    middle = _points(plane, columns, rows, 0.0)
    x = middle[:, 0] - np.interp(middle[:, 2], course[:, 0], course[:, 1])
    y = middle[:, 1] - np.interp(middle[:, 2], course[:, 0], course[:, 2])
    scale = person.spine.scale
    front = np.where(np.abs(x) < 34 * scale, -54 * scale, -24 * scale)
    near = ((np.abs(x) < 47 * scale) & (y > front) & (y < 60 * scale)).reshape(shape)
    full = np.repeat(np.repeat(near, 2, axis=0), 2, axis=1)[: plane.pixels[0], : plane.pixels[1]]
    places = np.flatnonzero(full)
    at_row, at_column = np.divmod(places.astype(np.int32), plane.pixels[1])
    shift_body = _moved(person.body_wobble, plane, shape)
    shift_spine = _moved(person.wobble, plane, plane.pixels)[places]
    bodies, spines = [], []
    for number, (share, shift_x, shift_y) in enumerate(_SUBS):
        depth = share * thickness
        if number != 1:  # two are enough where edges are far from what is graded
            jitter = np.float32(0.5 if share > 0 else -0.5)
            around = _points(plane, columns + jitter, rows + jitter, depth)
            bodies.append(paint_body(person.body, around, shift_body).reshape(shape))
        points = _points(plane, at_column.astype(np.float32) + shift_x, at_row.astype(np.float32) + shift_y, depth)
        spines.append(paint_spine(person, points + shift_spine))
    return bodies, spines, places


def _grain_field(rng: np.random.Generator, shape: tuple[int, int], spacing: float) -> np.ndarray:
    """Random field of unit deviation with fine and coarse parts, longer along the columns than across."""
    field = np.zeros(shape, np.float32)
    for size_mm, weight in ((1.3, 0.7), (4.0, 0.7)):
        cells = (max(2, int(shape[0] * spacing / (1.6 * size_mm))), max(2, int(shape[1] * spacing / size_mm)))
        small = rng.standard_normal(cells, dtype=np.float32)
        field += weight * cv2.resize(small, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return field


def _shading(camera: Camera, person: Anatomy, plane: Plane) -> np.ndarray:
    """Coil sensitivity and saturation band over a slice, (rows, columns) float32."""
    small = (max(2, plane.pixels[0] // 8), max(2, plane.pixels[1] // 8))
    rows, columns = np.divmod(np.arange(small[0] * small[1]), small[1])
    step = np.array(plane.pixels) / np.array(small)
    at = _points(plane, (columns * step[1]).astype(np.float32), (rows * step[0]).astype(np.float32), 0.0)
    if camera.surface is not None:
        course = person.body.course
        beside, behind = (at[:, axis] - np.interp(at[:, 2], course[:, 0], course[:, 1 + axis]) for axis in (0, 1))
        gain = camera.surface.gain(beside, behind)
        return cv2.resize(gain.reshape(small).astype(np.float32), (plane.pixels[1], plane.pixels[0]))
    centre = person.spine.origin[6]
    front, reach = camera.coil[0], camera.coil[2]
    away = np.square((at[:, 1] - centre[1] - front) / reach) + np.square((at[:, 0] - centre[0]) / (1.4 * reach))
    away = away + np.square((at[:, 2] - centre[2] - camera.coil[1]) / (1.6 * reach))
    gain = camera.coil[3] + (1.35 - camera.coil[3]) * np.exp(-away)
    edge, left = camera.saturated_front
    gain = gain * (left + (1 - left) / (1 + np.exp(-(at[:, 1] - centre[1] - edge) / 4)))
    return cv2.resize(gain.reshape(small).astype(np.float32), (plane.pixels[1], plane.pixels[0]))


def picture(
    rng: np.random.Generator,
    camera: Camera,
    person: Anatomy,
    plane: Plane,
    maps: Maps,
) -> np.ndarray:
    """Stored pixels (rows, columns) uint16 of one slice."""
    bodies, spines, places = maps
    size = (bodies[0].shape[1] * 2, bodies[0].shape[0] * 2)
    crop = np.s_[: plane.pixels[0], : plane.pixels[1]]
    around = sum(camera.signal[labels] for labels in bodies) / np.float32(len(bodies))
    image = np.ascontiguousarray(cv2.resize(around, size, interpolation=cv2.INTER_LINEAR)[crop])
    grain = np.ascontiguousarray(cv2.resize(camera.grain[bodies[1]], size, interpolation=cv2.INTER_NEAREST)[crop])
    flat, flat_grain = image.reshape(-1), grain.reshape(-1)
    behind = flat[places]
    spine = np.zeros(len(places), np.float32)
    for labels in spines:
        spine += np.where(labels == NONE, behind, camera.signal[labels])
    flat[places] = spine / np.float32(len(spines))
    flat_grain[places] = np.where(spines[1] == NONE, flat_grain[places], camera.grain[spines[1]])
    field = _grain_field(rng, plane.pixels, plane.spacing)
    muscle = np.ascontiguousarray(cv2.resize((bodies[1] == MUSCLE).astype(np.float32), size)[crop])
    muscle.reshape(-1)[places] *= spines[1] == NONE
    image *= np.maximum(1 + grain * field, 0.1)
    image += muscle * np.clip(0.6 * field - 0.5, 0, 0.8) * camera.streaks
    image = np.maximum(image, 0)
    image = cv2.GaussianBlur(np.power(image, camera.gamma), (0, 0), camera.blur) * _shading(camera, person, plane)
    noise = rng.standard_normal((2, *image.shape), dtype=np.float32) * np.float32(camera.noise)
    magnitude = np.sqrt(np.square(image + noise[0]) + np.square(noise[1]))
    dark = round(camera.border * plane.pixels[1])
    magnitude[:, :dark] = 0
    magnitude[:, plane.pixels[1] - dark :] = 0
    return np.clip(np.rint(magnitude * camera.peak), 0, 4095).astype(np.uint16)
