"""Which part a series plays, from what headers and people say in several languages; whole trees are in test_folder."""

import pytest

from lumbar.dicom.scan import Facts
from lumbar.study.roles import role

T1, T2, STIR, PD = ("12", "550", ""), ("105", "3600", ""), ("60", "4200", "150"), ("20", "3000", "")
NONE = ("", "", "")


def facts(description: str = "", times: tuple[str, str, str] = NONE, **more: str) -> Facts:
    echo, repetition, inversion = times
    told = {
        "modality": "MR",
        "description": description,
        "echo": echo,
        "repetition": repetition,
        "inversion": inversion,
    }
    return Facts(**{field: (told | more).get(field, "") for field in Facts._fields})


def part(description: str, times: tuple[str, str, str] = NONE, plane: str = "sagittal", **more: str) -> str | None:
    return role(facts(description, times, **more), plane, 15).part  # type: ignore[arg-type]


SAGITTAL_T2 = [
    ("t2_tse_sag_384", T2), ("T2W_TSE SAG", T2), ("Sag T2 FRFSE", T2), ("SAG FSE T2", NONE), ("T2 DRIVE sag", NONE),
    ("FRFSE", T2), ("T2 FSE FS", T2), ("t2_tse_dixon_sag", T2), ("T2 SPACE iso", T2), ("Sag CUBE T2", T2),
    ("t2_tirm_sag", STIR), ("STIR SAG", STIR), ("STIR", NONE), ("LWS STIR sag", ("40", "3500", "")), ("", STIR),
    ("", T2), ("T2 矢状位", T2), ("腰椎T2矢状", NONE), ("T2強調矢状断", T2), ("矢状位T2压脂", T2),
    ("LWS T2 sagittal ohne KM", T2),
    ("Rachis lombaire SAG T2", NONE), ("Columna lumbar SAG T2 FSE", NONE), ("sag T2 (post OP)", T2),
    ("T2 lomb sag sans injection", T2), ("IRM lombaire T2 FAT SAT", T2),
]  # fmt: skip
SAGITTAL_T1 = [
    ("t1_tse_sag", T1), ("SAG T1 FLAIR", ("24", "2100", "860")), ("SAG T1 FLAIR", NONE), ("T1W_TSE", NONE), ("", T1),
    ("T1 sag nativ", T1), ("T1 矢状断", T1), ("T1 SAG sans contraste", T1), ("T1 sin contraste", T1), ("Sag SE", T1),
    ("T1 w/o contrast", T1), ("T1 pre GD", T1),
]  # fmt: skip
AXIAL_T2 = [("t2_tse_tra", T2), ("AX T2 FRFSE", T2), ("T2 TRA block L3-S1", NONE), ("T2 横断", T2), ("axial", T2)]


@pytest.mark.parametrize(
    ("plane", "wanted", "name", "times"),
    [("sagittal", "Sagittal T2/STIR", *one) for one in SAGITTAL_T2]
    + [("sagittal", "Sagittal T1", *one) for one in SAGITTAL_T1]
    + [("axial", "Axial T2", *one) for one in AXIAL_T2],
)
def test_a_part_is_told_from_times_and_from_words_of_any_of_six_languages(
    plane: str, wanted: str, name: str, times: tuple[str, str, str]
) -> None:
    assert part(name, times, plane) == wanted


PASSED_OVER = {
    "localiser": [
        ("Localizer", T1, {}), ("3-plane loc", T1, {}), ("Übersicht", T2, {}), ("Uebersicht LWS", T2, {}),
        ("Scout", T1, {}),
        ("SURVEY", T1, {}), ("Repérage", T2, {}), ("Localizador", T2, {}), ("位置決め", T2, {}), ("定位像", T2, {}),
        ("T2", T2, {"image_type": "ORIGINAL\\PRIMARY\\LOCALIZER"}), ("plan scan", T1, {}),
    ],
    "MIP": [("T2 MIP", T2, {}), ("T2", T2, {"image_type": "DERIVED\\SECONDARY\\MIP"}),
            ("T2 sag", T2, {"image_type": "DERIVED\\PRIMARY\\PROJECTION IMAGE"})],
    "MPR": [("T2 SPACE MPR sag", T2, {}), ("T2", T2, {"image_type": "DERIVED\\SECONDARY\\MPR"}),
            ("T2 reformatted", T2, {}), ("T2 多断面", T2, {})],
    "subtraction": [("T1 SUB", T1, {}), ("Subtraktion", T1, {}), ("Soustraction T1", T1, {}), ("T1 差分", T1, {}),
                    ("T1", T1, {"image_type": "DERIVED\\PRIMARY\\M\\SUB"})],
    "diffusion": [("ep2d_diff_b50", T2, {}), ("DWI sag", T2, {}), ("ADC", T2, {}), ("T2 b1000", T2, {}),
                  ("sag", T2, {"image_type": "DERIVED\\PRIMARY\\DIFFUSION\\ADC"}), ("拡散強調", T2, {}),
                  ("sag", T2, {"b_value": "800"}), ("sag", T2, {"sequence": "SE\\EP"})],
    "phase": [("t1 in-phase", T1, {}), ("OutPhase: sag", T1, {}), ("t2_tse_dixon_sag_opp", T2, {}),
              ("sag", T1, {"image_type": "ORIGINAL\\PRIMARY\\IN_PHASE"}),
              ("T1", T1, {"image_type": "ORIGINAL\\PRIMARY\\OP"}),
              ("Gegenphase", T1, {}), ("T1 逆位相", T1, {}), ("t2_tse_dixon_sag_in", T2, {})],
    "Dixon": [("t2_tse_dixon_sag_W", T2, {}), ("t2_tse_dixon_sag_F", T2, {}), ("WATER: Sag T2 FSE IDEAL", T2, {}),
              ("FAT: Sag T2 FSE IDEAL", T2, {}), ("sag", T2, {"image_type": "ORIGINAL\\PRIMARY\\W\\NORM"}),
              ("T2", T2, {"image_type": "DERIVED\\PRIMARY\\DIXON\\WATER"}), ("T2 水画像", T2, {})],
    "contrast medium": [("T1 sag +C", T1, {}), ("t1_tse_sag KM", T1, {}), ("T1 sag post GD", T1, {}),
                        ("T1 gado", T1, {}),
                        ("T1 SAG con contraste", T1, {}), ("T1 sag", T1, {"agent": "Dotarem"}), ("造影T1", T1, {}),
                        ("T1 增强", T1, {}), ("T1 fs sag", T1, {}), ("SAG T1 FSE FAT SAT", T1, {})],
    "another part of the body": [
        ("T2 sag", T2, {"body_part": "HEAD"}), ("HWS T2 sag", T2, {}), ("Knie T2 sag", T2, {}), ("C-Spine T2", T2, {}),
        ("T2 sag", T2, {"study_description": "IRM du genou"}), ("T2 sag", T2, {"protocol": "BWS^Routine"}),
        ("T2 頸椎", T2, {}), ("颈椎 T2", T2, {}), ("T2 sag cervicale", T2, {}),
        ("T2 sag", T2, {"study_description": "RM RODILLA"}),
    ],
    "modality": [("T2 sag", T2, {"modality": "CT"}), ("report", NONE, {"modality": "SR"})],
    "no MR image": [("T2 sag", T2, {"kind": "1.2.840.10008.5.1.4.1.1.7"})],
    "gradient echo": [("T2* sag", T2, {}), ("t2_medic_tra", T2, {}), ("mFFE", T2, {}),
                      ("sag", T2, {"variant": "SS"}), ("sag", T1, {"sequence": "GR"})],
    "proton density": [("PD sag", PD, {}), ("DP FS", PD, {}), ("sag", PD, {})],
    "FLAIR": [("FLAIR", ("120", "9000", "2500"), {})],
    "myelogram": [("MR Myelo", T2, {}), ("脊髓造影 T2", T2, {})],
    "neither times nor words": [("sag", NONE, {}), ("sag", ("50", "", ""), {})],
}  # fmt: skip


@pytest.mark.parametrize(
    ("why", "name", "times", "more"), [(why, *one) for why, listed in PASSED_OVER.items() for one in listed]
)
def test_what_no_part_asks_for_is_passed_over_with_its_reason(
    why: str, name: str, times: tuple[str, str, str], more: dict[str, str]
) -> None:
    found = role(facts(name, times, **more), "sagittal", 15)
    assert found.part is None
    assert why in found.why


@pytest.mark.parametrize(("plane", "times"), [("coronal", T2), ("coronal", STIR), ("axial", T1), ("axial", STIR)])
def test_planes_and_contrasts_that_no_part_asks_for_are_passed_over(plane: str, times: tuple[str, str, str]) -> None:
    found = role(facts("Lumbar", times), plane, 15)  # type: ignore[arg-type]
    assert found.part is None
    assert "no part asks for that" in found.why


def test_times_count_against_words_and_the_reason_says_so() -> None:
    found = role(facts("T1 SAG", T2), "sagittal", 15)
    assert found.part == "Sagittal T2/STIR"
    assert "TE 105 TR 3600 ms, though it is called T1" in found.why


@pytest.mark.parametrize(
    "more",
    [
        {"body_part": "HEAD", "description": "LWS T2 sag"},  # scanners copy the tag from other protocols
        {"body_part": "SPINE", "protocol": "L-Spine/Cervical"},
        {"body_part": "OTHER"},
        {"study_description": "MRT der Lendenwirbelsäule"},
        {"study_description": "MR CERVICAL AND LUMBAR SPINE"},
        {"protocol": "Lumbar w/wo contrast"},  # of the whole examination
        {"description": "T1 sag", "times": T1, "agent": "NONE"},
        {"description": "T1 sag", "times": T1, "agent": "off"},
        {"description": "T1 sag", "times": T1, "agent": "Gadovist", "agent_volume": "0"},
        {"modality": ""},
    ],
)
def test_what_may_be_the_lumbar_spine_is_not_passed_over(more: dict[str, str]) -> None:
    assert role(facts(**({"description": "T2 sag", "times": T2} | more)), "sagittal", 15).part  # type: ignore[arg-type]
