"""From narrowing values to a spine that shows them: dural sac, recesses and foramina lose room as the values rise."""

import numpy as np

from lumbar.phantom.spine import RECESS_MM, ROOF_SLOPE, Profiles, Spine, along, around, draw_frames, frame_table
from lumbar.phantom.vertebrae import FIRST, PLANES, Column

_GRID = np.array([0.0, 1.0, 2.0, 3.0])
#: Share of its area that the dural sac keeps at a disc (narrowing 0, 1, 2, 3).
_SAC_AREA = np.array([1.0, 0.72, 0.42, 0.13])
#: Depth of the lateral recess, mm.
_RECESS = np.array([7.4, 5.0, 2.6, 0.3])
#: Share of its height and depth that the fat of a foramen keeps.
_FAT_HEIGHT = np.array([1.0, 0.86, 0.60, 0.36])
_FAT_DEPTH = np.array([1.0, 0.74, 0.46, 0.20])


def _by_plane(values: np.ndarray) -> np.ndarray:
    """Narrowing by level (…, 5) put on the planes (…, 13); elsewhere open."""
    table = np.full((*values.shape[:-1], PLANES), 0.15)
    table[..., FIRST : FIRST + 5] = values
    return table


def draw_spine(rng: np.random.Generator, column: Column, narrowing: np.ndarray) -> Spine:
    """A person whose 25 regions show `narrowing` (5 conditions, 5 levels), everything else drawn at random."""
    scale = float(np.clip(rng.normal(1.0, 0.06), 0.85, 1.15))
    origin, left, back, down = draw_frames(rng, column, scale)
    spinal, foraminal, recess = (_by_plane(part) for part in (narrowing[0], narrowing[1:3], narrowing[3:5]))
    worn = np.maximum(spinal, np.maximum(foraminal.max(axis=0), recess.max(axis=0)))
    disc = column.disc * scale * np.clip(rng.normal(1.0, 0.10, PLANES) - 0.07 * worn, 0.45, 1.3)
    opening = np.interp(recess, _GRID, _RECESS) * scale * rng.normal(1.0, 0.04, recess.shape)
    profiles = _profiles(rng, column, scale, spinal, foraminal, opening)
    return Spine(
        column=column,
        scale=scale,
        origin=origin,
        left=left,
        back=back,
        down=down,
        disc=disc.astype(np.float32),
        foramen=(column.foramen * scale).astype(np.float32),
        recess_opening=opening.astype(np.float32),
        fat_height=np.interp(foraminal, _GRID, _FAT_HEIGHT).astype(np.float32),
        fat_depth=np.interp(foraminal, _GRID, _FAT_DEPTH).astype(np.float32),
        frames=frame_table(origin, left, back),
        profiles=profiles,
    )


def _profiles(
    rng: np.random.Generator,
    column: Column,
    scale: float,
    spinal: np.ndarray,
    foraminal: np.ndarray,
    opening: np.ndarray,
) -> Profiles:
    pitch = column.pitch * scale
    build = scale * rng.normal(1.0, 0.04)  # one person's canal is wider than another's
    half_width, half_depth = column.sac_half_width * build, column.sac_half_depth * build
    area = np.interp(spinal, _GRID, _SAC_AREA) * rng.normal(1.0, 0.03, PLANES)
    lost_width, lost_depth = half_width * (1 - area**0.4), 2 * half_depth * (1 - area**0.6)
    from_front = rng.uniform(0.35, 0.65, PLANES)  # disc in front, ligaments behind
    reach = rng.uniform(7.5, 10.0) * scale
    gap_front = np.full(PLANES, 1.0 * scale)
    gap_front[FIRST + 4] = rng.uniform(2.0, 5.0) * scale  # fat in front of the sac at L5/S1
    gap_front[FIRST + 5 :] = 3.0 * scale
    front = along(gap_front) + around(from_front * lost_depth, pitch, reach)
    back = along(gap_front + 2 * half_depth) - around((1 - from_front) * lost_depth, pitch, reach)
    roof = np.maximum(along(column.roof * scale), along(gap_front + 2 * half_depth + 2.2 * scale))
    rows = np.arange(PLANES) * (len(roof) - 1) // (PLANES - 1)
    # The ligaments come up to the sac where it is narrowed; a fat pad is left behind it where it is not.
    slack = roof[rows] - back[rows] - np.clip(3.0 - 1.3 * spinal, 0.2, 3.0) * scale
    ligament = np.maximum(slack, 2.0 * scale)
    resting = roof[rows] - ROOF_SLOPE * RECESS_MM * scale
    room = np.maximum(resting - 1.0 * scale, 1.0)
    lost = np.maximum(room[None, :] - opening, 0.2)
    share = rng.uniform(0.3, 0.6, opening.shape)
    return Profiles(
        half_width=along(column.body_half_width * scale),
        depth=along(column.body_depth * scale),
        sac_half_width=along(half_width) - around(lost_width, pitch, reach),
        sac_front=front,
        sac_back=back,
        roof=roof,
        ligament=around(ligament, pitch, 8.5 * scale),
        foramen=along(column.foramen * scale),
        bulge_middle=around(np.maximum(from_front * lost_depth + 0.3, 0.2), pitch, 4.5 * scale),
        bulge_recess=around(share * lost, pitch, 4.8 * scale),
        ligament_recess=around((1 - share) * lost + 1.0 * scale, pitch, 8.5 * scale),
        bulge_foramen=around(1.2 * foraminal * scale, pitch, 4.8 * scale),
        crowding=around(spinal, pitch, 7.0 * scale),
    )
