"""A small SPIDER of our own: slices with foramina, as its folder holds them."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd


def foramina_source(folder: Path) -> Path:
    """Patients 11 (T2 SPACE), 13 (T1, stored twice as high), 12 (held out) and 106 (measured on): a spot at L4/L5.

    `foramina.csv`: that spot and a place at L1/L2, which nobody sees (`ambiguous`).
    """
    for name in ("t2_space/images", "offmidline/images"):
        (folder / name).mkdir(parents=True)
    rows = []
    for patient, image, shape in (
        (11, "11_t2_SPACE_slice76", (256, 192)),
        (13, "13_t1_04", (160, 80)),
        (12, "12_t2_17", (80, 80)),
        (106, "106_t1_11", (80, 80)),
    ):
        x, y = shape[1] // 2, shape[0] * 3 // 4
        picture = np.random.default_rng(patient).integers(0, 50, shape).astype(np.uint8)
        picture[y - 1 : y + 2, x - 1 : x + 2] = 250
        place = "t2_space" if "SPACE" in image else "offmidline"
        cv2.imwrite(str(folder / place / "images" / f"{image}.png"), picture)
        rows += [(patient, image, "L4/L5", x, y, "seen", 0), (patient, image, "L1/L2", x, y // 3, "canal", 1)]
    columns = ["patient", "image", "level", "x", "y", "how", "ambiguous"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "foramina.csv", index=False)
    (folder / "t2_space" / "canal_keypoints.csv").write_text(
        "patient,image,slice,level,x,y\n"
        + "".join(f"{who},{who}_t2_SPACE_slice76.png,76,L4/L5,40,90\n" for who in (11, 12))
    )
    cv2.imwrite(str(folder / "t2_space/images/12_t2_SPACE_slice76.png"), np.eye(100, dtype=np.uint8))
    names = ["13_t1", "12_t2", "106_t1"]
    pd.DataFrame({"new_file_name": names, "PixelSpacing": "[1.5, 1.5]"}).to_csv(folder / "overview.csv", index=False)
    return folder
