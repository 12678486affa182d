"""The two pictures of the README, of what is in `weights/` now: a study as the notebook shows it, and its report page.

    python benchmarks/manual_pictures.py [--study N] [--out docs]

Writes `example.png` and `report.png`, packed to 256 colours. The page is photographed in headless Chromium by selenium:
the study's surest severe cell is chosen, its saliency and its networks are shown.
"""

import argparse
import io
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from selenium import webdriver

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import lumbar
from lumbar.files.write import write_bytes
from lumbar.labels import CONDITIONS
from lumbar.report.html.cells import ORDER
from lumbar.report.results import Results
from lumbar.terminal.voice import tell

ROOT = Path(__file__).resolve().parent.parent
#: Colours of a packed picture that are kept as they are; how far apart red, green and blue of a grey may be.
KEPT, GREY = 96, 24
#: Widths as the README shows them, px; a browser's window, whose picture is made as narrow.
EXAMPLE_WIDTH, REPORT_WIDTH, WINDOW = 860, 800, (1200, 1420)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
)


def packed(picture: Image.Image) -> bytes:
    """A PNG of 256 colours: of those that are not grey the commonest, as they are, and what is near the others."""
    out, rgb = io.BytesIO(), picture.convert("RGB")
    pixels = np.asarray(rgb, np.int64).reshape(-1, 3)
    colours, place, counts = np.unique(pixels, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    kept = colours[order][np.ptp(colours[order], axis=1) > GREY][:KEPT]
    spread = np.array(rgb.quantize(256 - len(kept)).getpalette(), np.int64).reshape(-1, 3)
    palette = np.concatenate([kept, spread[: 256 - len(kept)]])
    nearest = np.concatenate(
        [((part[:, None] - palette) ** 2).sum(-1).argmin(1) for part in np.array_split(colours, 64)]
    )
    flat = Image.fromarray(nearest[place.ravel()].reshape(rgb.height, rgb.width).astype(np.uint8), "P")
    flat.putpalette(palette.astype(np.uint8).ravel().tolist())
    flat.save(out, "PNG", optimize=True)
    return out.getvalue()


def narrowed(picture: Image.Image, width: int) -> Image.Image:
    """The picture at a width, px, without overshoot, which would change the colours of small squares."""
    size = width, round(picture.height * width / picture.width)
    return picture.resize(size, Image.Resampling.HAMMING)


def example(results: Results, study: int) -> Image.Image:
    """A study as the notebook shows it."""
    figure = results.show(study)
    out = io.BytesIO()
    figure.savefig(out, dpi=150)
    return narrowed(Image.open(out), EXAMPLE_WIDTH)


def page(report: Path, study: int, cell: tuple[int, int]) -> Image.Image:
    """A study's page of a report, a cell (level, column) chosen."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in (*FLAGS, "--window-size={},{}".format(*WINDOW)):
        options.add_argument(flag)
    driver = shutil.which("chromedriver")
    if not options.binary_location or driver is None:
        raise SystemExit("Chromium and chromedriver draw the page; install both (Debian: chromium chromium-driver)")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    try:
        browser.get(f"{report.as_uri()}#study/{study}")
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": WINDOW[0], "height": WINDOW[1], "deviceScaleFactor": 1, "mobile": False},
        )
        browser.find_element("css selector", '[data-cell="{} {}"]'.format(*cell)).click()
        browser.execute_script("for (const one of document.querySelectorAll('.seen details')) one.open = true")
        browser.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
        picture = Image.open(io.BytesIO(browser.get_screenshot_as_png()))
        return narrowed(picture, REPORT_WIDTH)
    finally:
        browser.quit()


def main() -> None:
    """Grade the sample studies and draw both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=int, default=100002, metavar="N", help="which of sample_data")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", metavar="DIR", help="default: docs")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        results = lumbar.grade(ROOT / "sample_data", ROOT / "weights", out=scratch)
        results.save(scratch, html=True)
        severe = next(one for one in results if one.study_id == args.study).probabilities[..., 2]
        condition, level = np.unravel_index(int(severe.argmax()), severe.shape)
        pictures = {
            "example.png": example(results, args.study),
            "report.png": page(
                Path(scratch) / "report.html", args.study, (int(level), ORDER.index(CONDITIONS[condition]))
            ),
        }
    for name, picture in pictures.items():
        write_bytes(packed(picture), args.out / name)
        tell(f"{args.out / name}: {picture.width} x {picture.height} px")


if __name__ == "__main__":
    main()
