"""`report.html`: what it holds, and, in headless Chromium, that it can be clicked, scrolled and read on a phone."""

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import train_utils
from lumbar.drawing import style
from lumbar.grading.regions import cut_regions, region_key
from lumbar.grading.tasks import heard
from lumbar.issues import InputError
from lumbar.labels import CONDITIONS, KEYPOINT_SERIES, LEVELS
from lumbar.prediction import job
from lumbar.recipe.grader import GraderSpec
from lumbar.report.html import write
from lumbar.report.html.panel import panel
from lumbar.report.html.slices import Shown
from lumbar.study.study import open_data, read_study
from tests.conftest import ROOT
from tests.support.browser import CONTRASTS, check_quiet, chromium_at, css, every, open_anew, soon
from tests.support.report_world import BROKEN, GRADED, HOSTILE, World, report_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The report of one study that was graded and one that was not."""
    return report_world(tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("out"))


def picture(text: str) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_UNCHANGED)


# ---- what it holds -------------------------------------------------------------------------------------------------


def test_the_command_writes_the_report_only_when_asked(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "predict_all", lambda *_, **__: world.results)
    train_utils.main(
        ["predict", "--data", str(world.data.root), "--weights", str(ROOT / "weights"), "--out", str(tmp_path)]
    )
    assert (tmp_path / "submission.csv").is_file()
    assert world.page.is_file()
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("change", [lambda page: page + b"<!-- mine -->\n", lambda page: page.replace(b"L4", b"L3", 1)])
def test_a_report_replaces_a_report_and_none_that_somebody_changed(
    world: World, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    page = tmp_path / write.REPORT
    whole = world.page.read_bytes()
    page.write_bytes(whole)
    write.check_out(tmp_path)
    page.write_bytes(change(whole))
    with pytest.raises(InputError, match=r"report\.html: is there already"):
        write.check_out(tmp_path)
    assert page.read_bytes() == change(whole) != whole


def test_it_names_no_resource_but_itself_no_folder_of_this_machine_and_only_the_given_ids(world: World) -> None:
    assert set(re.findall(r"https?://[^\"'` )]+", world.text)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in world.text
    assert str(world.data.root) not in world.text
    assert {study["id"] for study in world.block("report")["studies"]} == {GRADED, BROKEN}
    assert len(world.text) < 3e6


def test_text_of_the_data_cannot_become_markup(world: World) -> None:
    assert "<script>window.broken" not in world.text
    assert any(HOSTILE[:40] in issue["detail"] for issue in world.block(f"study-{GRADED}")["issues"])


def test_it_tells_the_bundle_and_that_it_is_for_research(world: World) -> None:
    index = world.block("report")
    assert index["bundle"]["identity"] == world.bundle.identity
    assert [one["sha256"] for one in index["bundle"]["members"]] == [m.sha256 for m in world.bundle.manifest.members]
    assert "Research use only, not for clinical decisions." in world.text


def test_every_cell_tells_its_distribution_its_label_and_each_networks_word(world: World) -> None:
    result, study = world.results[0], world.block(f"study-{GRADED}")
    titles = world.block("report")["columns"]
    assert titles == ["right foramen", "right subarticular", "spinal canal", "left subarticular", "left foramen"]
    cell = study["cells"][3][2]  # L4/L5 spinal canal
    np.testing.assert_allclose(cell["p"], result.probabilities[0, 3], atol=1e-4)
    assert cell["label"] == 2
    assert [name for name, _ in cell["members"]] == ["canal", "global_small"]
    assert all(row["from"] == "prior" for line in world.block(f"study-{BROKEN}")["cells"] for row in line)


def test_what_no_test_on_patients_backs_is_told_cell_by_cell_and_counts_for_no_finding(world: World) -> None:
    study, index = world.block(f"study-{GRADED}"), world.block("report")
    backed = [[cell["backed"] for cell in line] for line in study["cells"]]
    assert backed == [[False, False, True, False, False]] * 5, "the canal alone was tested on patients"
    for group in ("foraminal", "subarticular"):
        assert f"{group}: learnt from phantoms alone, never tested on patients, its points " in study["rests_on"]
    assert study["rests_on"] in index["rests_on"]
    assert study["worst"]["cell"][1] == 2, "a recess that is called severe is no finding"
    canal = [int(np.argmax(world.results[0].probabilities[0, level])) for level in range(5)]
    assert [index["studies"][0][name] for name in ("severe", "moderate")] == [canal.count(2), canal.count(1)]
    colours = {point["name"]: point["colour"] for point in study["points"]}
    assert len({colours[name] for name in colours if name.endswith((" L", " R"))}) == 1, "grey marks"
    assert not study["phantom"]


def test_a_phantom_is_told_and_its_findings_all_count(world: World) -> None:
    result = replace(world.results[0], phantom=True)
    assert all(
        cell["backed"] for line in write.cells.table(result, list(world.bundle.manifest.graders), None) for cell in line
    )
    assert write.cells.counted(result).all()
    study = read_study(open_data(ROOT / "sample_data"), int(GRADED))
    assert study.is_phantom
    assert not read_study(world.data, int(GRADED)).is_phantom


def test_per_cents_are_rounded_once(world: World) -> None:
    cells = [cell for line in world.block(f"study-{GRADED}")["cells"] for cell in line]
    told = world.results[0].probabilities
    for place, cell in enumerate(cells):
        row = CONDITIONS.index(write.cells.ORDER[place % 5])
        assert cell["percent"] == [style.percent(share) for share in told[row, place // 5]]


def test_regions_are_exactly_what_the_networks_saw(world: World) -> None:
    result, study = world.results[0], world.block(f"study-{GRADED}")
    points = {(point.condition, point.level): point for point in result.keypoints}
    specs = [m.spec for m in world.bundle.manifest.members if isinstance(m.spec, GraderSpec)]
    kinds = {region_key(spec): spec for spec in reversed(specs)}
    study_read = read_study(world.data, result.study_id)
    every_cut = {key: cut_regions(study_read, points, spec).cuts for key, spec in kinds.items()}
    assert len(study["regions"]) == sum(map(len, every_cut.values())) > 20
    cuts = next(cut for cut in every_cut.values() if ("axial_right", LEVELS[0]) in cut)
    shown = next(one for one in study["regions"] if one["title"] == "Axial T2, right")
    pixels = cuts["axial_right", LEVELS[shown["row"]]].pixels
    low, high = pixels.min(), pixels.max()
    expected = np.concatenate(np.round((pixels - low) / (high - low) * 255), axis=1)
    np.testing.assert_array_equal(picture(shown["image"]).reshape(*expected.shape, -1)[..., 0], expected)
    assert shown["mirrored"]
    assert shown["edges"] == ["L", "R"], "a mirrored region has the patient's left on its left"
    assert picture(shown["map"]).shape[2] == 4


def test_points_and_boxes_lie_where_the_geometry_says(world: World) -> None:
    study = world.block(f"study-{GRADED}")
    assert {one["title"]: one["edges"] for one in study["series"]} == {
        "Sagittal T2": ["A", "P"], "Sagittal T1": ["A", "P"], "Axial T2": ["R", "L"],
    }  # fmt: skip
    assert len(study["points"]) == len(world.results[0].keypoints)
    for point in (one for one in study["points"] if one["name"].endswith((" L", " R"))):
        region = next(r for r in study["regions"] if (r["row"], r["column"]) == (point["row"], point["column"]))
        for item in region["slices"]:
            if item is not None and item["instance"] == point["instance"]:
                x, y, wide, tall = item["box"]
                assert abs(x + wide / 2 - point["x"]) < 1.5, "half a pixel and rounding of the box"
                assert abs(y + tall / 2 - point["y"]) < 1.5
    x_of = {point["name"]: point["x"] for point in study["points"] if _axial(point)}
    assert x_of["L4/L5 R"] < x_of["L4/L5 L"] - 8, "the patient's right is on the viewer's left"


def _axial(point: dict[str, Any]) -> bool:
    return KEYPOINT_SERIES[write.cells.ORDER[point["column"]]] == "axial_t2"


def test_the_panel_has_three_sagittal_tiles_and_an_axial_one_a_level(world: World) -> None:
    tiles = world.block(f"study-{GRADED}")["panel"]
    assert [tile["title"].split(" · ")[1] for tile in tiles[:3]] == ["right foramina", "canal", "left foramina"]
    assert [tile["title"] for tile in tiles[3:]] == [f"Axial T2 · {one.upper().replace('_', '/')}" for one in LEVELS]


def test_the_panel_shows_every_point_wherever_its_own_slice_is_and_how_sure_it_is(world: World) -> None:
    result = next(one for one in world.results if not one.failed)
    study = read_study(world.data, result.study_id)
    shown = Shown(study)
    before = {place_of(point): point for tile in panel(shown, shown.points(result)) for point in tile["points"]}
    foramen = next(point for point in result.keypoints if KEYPOINT_SERIES[point.condition] == "sagittal_t1")
    slices = next(one for one in study.series["sagittal_t1"] if one.series_id == foramen.series_id).slices
    neighbour = next(item.instance for item in slices if item.instance != foramen.instance)
    moved = replace(foramen, instance=neighbour, repaired=True)
    points = [moved if point is foramen else point for point in result.keypoints]
    after = {
        place_of(point): point
        for tile in panel(shown, shown.points(replace(result, keypoints=tuple(points))))
        for point in tile["points"]
    }
    assert len(before) == 25
    assert before.keys() == after.keys()
    for place, point in after.items():
        assert point["instance"] == before[place]["instance"]
        assert np.hypot(point["x"] - before[place]["x"], point["y"] - before[place]["y"]) < 0.1
        assert point["text"].startswith((LEVELS[point["row"]].upper().replace("_", "/"), "L ", "R "))
        assert point["text"].endswith("repaired" if point["repaired"] else f" {style.confidence(point['confidence'])}")
    assert sum(point["repaired"] for point in after.values()) == sum(point["repaired"] for point in before.values()) + 1


def place_of(point: dict[str, Any]) -> tuple[int, int]:
    return point["row"], point["column"]


def test_a_report_that_breaks_off_leaves_the_old_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = world.text
    monkeypatch.setattr(write, "study_view", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write.write_report(world.results, world.data, world.bundle, world.page.parent)
    assert world.text == before
    assert not list(world.page.parent.glob(".*")), "nor a part of the new one"


# ---- in a browser --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium_at(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Any, world: World) -> Iterator[Any]:
    """The report's list, 1280 pixels wide; after the test its console must be empty and nothing have been fetched."""
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.set_window_size(1280, 900)
    open_anew(chromium, world.page)
    yield chromium
    check_quiet(chromium)
    assert chromium.execute_script("return window.broken === undefined")


def shown_slice(browser: Any) -> int:
    return int(css(browser, ".stage").get_attribute("aria-valuenow"))


def open_study(browser: Any, study: str = GRADED) -> None:
    css(browser, f'a[href="#study/{study}"]').click()
    soon(browser, lambda: css(browser, "h1").text == f"Study {study}")


def test_the_list_begins_with_the_worst_sorts_by_any_column_and_filters(browser: Any, world: World) -> None:
    rows = lambda: [row.text for row in every(browser, ".studies tbody th")]  # noqa: E731
    studies = world.block("report")["studies"]
    values = {
        "worst": lambda study: (not study["phantom"], study["worst"]["backed"], study["worst"]["expected"]),
        "confidence": lambda study: float(study["confidence"] or -1),
    }
    keys = [button.get_attribute("data-key") for button in every(browser, "th [data-key]")]
    assert keys == ["id", "worst", "severe", "moderate", "confidence", "prior", "issues"]

    def sorted_ids(key: str, down: bool) -> list[str]:
        value = values.get(key, lambda study: int(study[key]))
        by_id = sorted(studies, key=lambda one: int(one["id"]))
        return [one["id"] for one in sorted(by_id, key=value, reverse=down)]

    assert css(browser, 'th[aria-sort="descending"]').text.startswith("Worst finding")
    assert rows() == sorted_ids("worst", down=True)
    for key in [*keys[2:], "worst", "id"]:
        for _ in range(2):
            css(browser, f'[data-key="{key}"]').click()
            down = bool(every(browser, 'th[aria-sort="descending"]'))
            assert rows() == sorted_ids(key, down), key
    css(browser, '[data-key="worst"]').click()
    css(browser, '[data-key="id"]').click()
    assert rows() == [GRADED, BROKEN]
    css(browser, '[data-key="id"]').click()
    assert rows() == [BROKEN, GRADED]
    assert browser.switch_to.active_element.get_attribute("data-key") == "id", "the keyboard stays where it was"
    css(browser, "#filter").send_keys(BROKEN)
    assert rows() == [BROKEN]


def test_slices_scroll_by_keyboard_wheel_and_slider(browser: Any) -> None:
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    open_study(browser)
    stage = css(browser, ".stage")
    count = int(stage.get_attribute("aria-valuemax"))
    assert count > 3
    stage.send_keys(Keys.HOME)
    assert shown_slice(browser) == 1
    stage.send_keys(Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_UP)
    assert shown_slice(browser) == 2
    stage.send_keys(Keys.END, Keys.PAGE_DOWN)
    assert shown_slice(browser) == count
    ActionChains(browser).scroll_from_origin(ScrollOrigin.from_element(stage), 0, -120).perform()
    soon(browser, lambda: shown_slice(browser) == count - 1)
    css(browser, ".scrub input").send_keys(Keys.ARROW_LEFT)
    assert shown_slice(browser) == count - 2
    css(browser, '.step[aria-label="Next slice"]').click()
    assert f"Slice {count - 1} of {count}" in css(browser, ".viewer .caption").text


def test_a_cell_brings_up_its_slice_its_region_and_its_saliency(browser: Any, world: World) -> None:
    open_study(browser)
    css(browser, '[data-cell="1 3"]').click()  # L2/L3 left subarticular
    assert css(browser, "#seen-title").text == "What the networks saw: L2/L3 left subarticular"
    assert css(browser, '.tabs [aria-pressed="true"]').text == "Axial T2"
    assert len(every(browser, ".stage .box.chosen")) == 1
    assert "L2/L3 L" in css(browser, ".stage").get_attribute("aria-valuetext")
    asked = [spec for spec in world.bundle.manifest.graders.values() if "left_subarticular_stenosis" in heard(spec)]
    assert len(every(browser, ".seen .strip")) == len({region_key(spec) for spec in asked}) == 1
    assert float(css(browser, ".seen .map").value_of_css_property("opacity")) > 0
    film, names = css(browser, ".seen .strip .film").rect, css(browser, ".seen .strip .names").rect
    assert names["y"] >= film["y"] + film["height"] - 1, "each slice's name stands below it"
    assert names["width"] == film["width"]
    css(browser, '[name="saliency"]').click()
    assert css(browser, ".seen .map").get_attribute("style") == "opacity: 0;"
    for name, selector in (("points", ".stage .mark"), ("regions", ".stage .box")):
        assert every(browser, selector)
        css(browser, f'.viewer [name="{name}"]').click()
        assert not every(browser, selector)
    css(browser, ".panel .tile:nth-child(2)").click()
    assert css(browser, '.tabs [aria-pressed="true"]').text == "Sagittal T2"


def test_a_study_that_failed_has_a_page_too_and_back_leads_to_the_list(browser: Any) -> None:
    open_study(browser, BROKEN)
    assert "could not be graded" in css(browser, ".facts").text
    assert browser.switch_to.active_element.get_attribute("id") == "title", "a reader hears the new page's title"
    browser.back()
    soon(browser, lambda: css(browser, "h1").text == "Studies")


def test_what_is_not_backed_is_hatched_under_a_banner_and_phantoms_are_called_so(
    browser: Any, world: World, tmp_path: Path
) -> None:
    assert "never tested on patients" in css(browser, ".banner").text
    open_study(browser)
    assert css(browser, ".banner").text.startswith("Hatched severities are backed by no test on patients.")
    assert len(every(browser, ".cell.unbacked")) == 20
    assert "gradient" in css(browser, '[data-cell="0 0"]').value_of_css_property("background-image")
    assert css(browser, '[data-cell="0 2"]').value_of_css_property("background-image") == "none"
    before = css(browser, '[data-cell="0 0"]').value_of_css_property("background-color")
    css(browser, '[data-cell="0 0"]').click()
    css(browser, "h1").click()  # the pointer leaves the cell
    chosen = css(browser, '.cell[aria-pressed="true"]')
    assert chosen.get_attribute("data-cell") == "0 0"
    assert "gradient" in chosen.value_of_css_property("background-image"), "a chosen cell stays hatched"
    assert chosen.value_of_css_property("background-color") == before
    assert css(browser, '.seen [role="status"]').text.endswith("Backed by no test on patients.")
    assert "Backed by no test on patients." in css(browser, ".seen details").text
    css(browser, '[data-cell="0 2"]').click()
    assert "Backed" not in css(browser, ".seen").text
    assert "backed by no test on patients" in css(browser, ".findings .key").text
    page = tmp_path / "phantom.html"
    text = world.text.replace('"phantom":false', '"phantom":true').replace('"backed":false', '"backed":true')
    page.write_text(text, encoding="utf-8")
    browser.get(page.as_uri())
    assert "backed by no test" not in css(browser, "#main").text.replace("a test on patients backs", "")
    assert css(browser, ".studies th .tag").text.lower() == "phantom"
    open_study_of_phantom = css(browser, f'a[href="#study/{GRADED}"]')
    open_study_of_phantom.click()
    soon(browser, lambda: css(browser, ".banner").text.startswith("Phantom, no patient. Severities rest on: spinal"))


def test_a_severity_of_a_strange_region_is_hatched_with_its_cause(browser: Any, world: World, tmp_path: Path) -> None:
    page = tmp_path / "strange.html"
    assert '"strange":true' not in world.text
    page.write_text(world.text.replace('"strange":false', '"strange":true'), encoding="utf-8")
    browser.get(page.as_uri())
    open_study(browser)
    assert len(every(browser, ".cell.unbacked")) == 25
    css(browser, '[data-cell="0 2"]').click()
    assert css(browser, '.seen [role="status"]').text.endswith("On a region like nothing seen in training.")
    css(browser, '[data-cell="0 0"]').click()
    both = "acked by no test on patients, on a region like nothing seen in training"
    assert css(browser, '.seen [role="status"]').text.endswith(f"B{both}.")
    assert f"b{both.replace(', on', ', or on')}" in css(browser, ".findings .key").text


def test_a_mixed_list_names_its_phantoms_and_puts_them_last(browser: Any, world: World, tmp_path: Path) -> None:
    page = tmp_path / "mixed.html"
    patient = f'"id":"{GRADED}","failed":false,"phantom":false'
    assert patient in world.text
    page.write_text(world.text.replace(patient, patient.replace('m":false', 'm":true')), encoding="utf-8")
    assert [row.text for row in every(browser, ".studies tbody th")] == [GRADED, BROKEN]
    browser.get(page.as_uri())
    assert [row.text for row in every(browser, ".studies tbody th a")] == [BROKEN, GRADED]
    banner = css(browser, ".banner").text
    assert banner.startswith(
        "Severities that are hatched, or pale in the small tables, are backed by no test on patients."
    )
    assert f"Phantoms, no patients: {GRADED}; their severities are not hatched." in banner
    assert "largest expected severity" in css(browser, ".studies caption").text
    assert "25 cells, of 5 that count " in css(browser, ".studies").get_attribute("innerHTML")


def test_the_cells_are_one_stop_of_the_tab_key_and_arrows_walk_over_them(browser: Any) -> None:
    from selenium.webdriver import Keys

    open_study(browser)
    at = lambda: browser.switch_to.active_element.get_attribute("data-cell")  # noqa: E731
    css(browser, '[data-cell="0 0"]').click()
    for key, place in (
        (Keys.ARROW_LEFT, "0 0"), (Keys.ARROW_UP, "0 0"), (Keys.ARROW_DOWN, "1 0"), (Keys.ARROW_RIGHT, "1 1"),
        (Keys.END, "1 4"), (Keys.HOME, "1 0"),
    ):  # fmt: skip
        browser.switch_to.active_element.send_keys(key)
        assert at() == place
    assert [cell.get_attribute("data-cell") for cell in every(browser, '.cell[tabindex="0"]')] == ["1 0"]
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    soon(browser, lambda: css(browser, "#seen-title").text == "What the networks saw: L2/L3 right foramen")
    browser.switch_to.active_element.send_keys(Keys.TAB)
    assert at() is None, "the next stop lies behind the table"


def test_an_address_of_no_study_says_so_and_leads_back(browser: Any) -> None:
    browser.execute_script("location.hash = '#study/404'")
    soon(browser, lambda: css(browser, "h1").text == "No such study")
    assert "404" in css(browser, '[role="alert"]').text
    css(browser, "#main a").click()
    soon(browser, lambda: css(browser, "h1").text == "Studies")


def test_pictures_have_words_and_paper_shows_findings_without_controls(browser: Any) -> None:
    assert all(one.accessible_name.startswith("25 cells, ") for one in every(browser, ".thumbnail"))
    open_study(browser)
    for picture in every(browser, ".tile svg, .strip svg"):
        assert picture.accessible_name.strip()
    assert "keypoints with their confidence: L1/L2 ." in css(browser, ".tile:nth-child(2) svg").accessible_name
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not css(browser, ".tabs").is_displayed()
        assert "Choose a cell" not in css(browser, ".heat caption").text
        assert css(browser, ".banner").is_displayed()
        assert css(browser, ".heat").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_a_phone_needs_no_sideways_scrolling(browser: Any) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    wide = "return document.documentElement.scrollWidth"
    assert browser.execute_script(wide) <= 390
    open_study(browser)
    assert browser.execute_script(wide) <= 390
    smallest = "return Math.min(...[...document.querySelectorAll('button')].map((one) => one.offsetHeight))"
    assert browser.execute_script(smallest) >= 24, "targets that a finger hits (WCAG 2.5.8)"


def test_every_control_has_a_name_and_every_text_contrast(browser: Any) -> None:
    """WCAG 2.1, 4.1.2 and 1.4.3: names for those who do not see, 4.5 to 1 for those who see little."""
    open_study(browser)
    for control in every(browser, "button, input, a, [role=slider]"):
        if control.is_displayed():
            assert control.accessible_name.strip(), control.get_attribute("outerHTML")
    assert browser.execute_script(CONTRASTS) == []
