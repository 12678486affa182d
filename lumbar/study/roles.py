"""Which part a series plays, told from its headers: orientation, times, sequence, and what people call it.

Words are looked for in English, German, French, Spanish, Japanese and Chinese, and in vendors' abbreviations. What a
protocol is called stands for a whole examination on some scanners, so that a series' own description counts first.
"""

import re
import unicodedata
from typing import Final, NamedTuple

from pydicom.uid import UID, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage, MRImageStorage

from lumbar.dicom.mixture import T1_ECHO_MS, T2_ECHO_MS
from lumbar.dicom.scan import Facts, numbers
from lumbar.geometry import Plane

#: What people call a series is shorter.
_LONGEST: Final = 250
#: Repetition times of T1-weighted spin echoes are shorter, of T2-weighted ones longer, ms.
LONG_REPETITION_MS: Final = 1500.0
#: Inversion times that null fat, ms.
STIR_INVERSION_MS: Final = (60.0, 350.0)
#: Longer inversion times null water, ms; between the two lie those of T1 FLAIR.
FLAIR_INVERSION_MS: Final = 1500.0
_MR: Final = frozenset({MRImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage})


class Role(NamedTuple):
    """The part in the words of `SERIES_DESCRIPTIONS`, None for no part; why; whether fat is left as it is."""

    part: str | None
    why: str
    plain: bool = True


class _Odd(NamedTuple):
    """A kind of series that no part asks for: how ImageType says it, and how people do."""

    what: str
    types: re.Pattern[str]
    words: re.Pattern[str]


_NEVER: Final = r"(?!)"
_FAT_SATURATED: Final = re.compile(
    r"\bF ?S\b|\bFAT ?(SAT|SUP)\w*|\bSAT ?FAT|\bSPAIR|\bSPIR\b|\bCHESS\b|\bFETT ?(SAT|SUP|UNTERDR)\w*"
    r"|\bSAT ?(DE )?GRAI?S"
    r"|\bSUP\w* ?(DE )?(LA )?GRA|脂肪抑制|脂抑|压脂|抑脂|\bWATER ?EXC\w*|\bPROSET"
)
_ODD: Final = [
    _Odd(what, re.compile(types), re.compile(words))
    for what, types, words in (
        (
            "a localiser",
            r"LOCALI[SZ]ER|SCOUT|SURVEY|TOPOGRAM",
            r"\bLOC\b|LOCALI[SZ]|LOKALI[SZ]|\bSCOUT|\bSURVEY|TOPOGRAM|\bPILOT\b|\bPLAN(NING)? ?SCAN|SMART ?(SPINE"
            r"|BRAIN|EXAM)"
            r"|\b3 ?(PL|PLANE|PLANES|PLAN|PLANS|PLANOS|EBENEN)\b|U(E)?BERSICHT|REPERAGE|LOCALISAT|LOCALIZAD|定位|位置決"
            r"|スカウト|ロケート|ローカライザ",
        ),
        (
            "a projection (MIP)",
            r"\bM(AX|IN)?_?IP\b|PROJECTION|RENDER|MOSAIC|MONTAGE",
            r"\bM(AX|IN)? ?IP\b|\bMPVR\b|PROJE[CK]TION|最大値投影|最大密度投影",
        ),
        (
            "reformatted (MPR)",
            r"\bMPR\b|REFORMAT|CURVED",
            r"\bC?MPR\b|REFORMAT|REKONSTR|RECONSTRU|\bCURVED\b|多断面|多平面|再構成|重建|重组",
        ),
        (
            "a subtraction",
            r"SUBTRACT|\bSUB\b",
            r"\bSUBS?\b|SUBTRA[CK]|SUBSTRA[CK]|SOUSTRACTION|SUSTRACCION|差分|サブトラクション|减影|減影",
        ),
        (
            "diffusion-weighted",
            r"DIFFUSION|\bE?ADC\b|TRACE|\bFA\b|TENSOR",
            r"\bE?DWI?\b|DIFF|DIFUS|\bEP2D|\bEPI\b|\bDTI\b|\bE?ADC\b|\bTRACEW?\b|\bB ?[0-9]{3,4}\b|\bRESOLVE\b"
            r"|拡散|弥散|扩散",
        ),
        (
            "an in- or opposed-phase image",
            r"\b(IN|OUT|OPP|OPPOSED)_?PHASE\b|\b(IP|OP)\b",
            r"\bIN ?PHASE\b|\bOUT ?(OF ?)?PHASE\b|\bOPP\w* ?PHASE|\bPHASE ?OPP|\bGEGENPHASE"
            r"|\bEN (OPPOSITION DE )?(PHASE|FASE)\b"
            r"|FASE OPUESTA|FUERA DE FASE|同位相|逆位相|同相|反相|\b(DIXON|IDEAL|FLEX)\b.* (IN|OPP|OUT|IP|OP)\b",
        ),
        (
            "a fat or water image (Dixon)",
            r"\b(W|F|FF|WATER|FAT|DIXON|FAT_FRACTION)\b",
            r"\bM?DIXON\b.* (W|F|WATER|FAT|WASSER|FETT|EAU|GRAISSE|AGUA|GRASA)\b|\b(IDEAL|FLEX)\b.* (W|F|WATER|FAT)\b"
            r"|\b(WATER|WASSER|FETT|GRAISSE)\b(?! ?(EXC|SAT|SUP|UNTERDR))|^(FAT|EAU|AGUA|GRASA)\b(?! ?(SAT|SUP))"
            r"|水(画像|图像|像)|脂肪(画像|图像|像)",
        ),
        ("a phase image or map", r"(^|\\)P(\\|$)|\bMAP\b|PHASE MAP|VELOCITY", r"\bMAP\b|\bMAPIT\b|MAPPING|CARTIGRAM"),
        (
            "a myelogram",
            _NEVER,
            r"MYELO|MIELO|\bMRM\b|ミエロ|水成像|脊髄腔|脊髓造影",
        ),
        (
            "a calibration",
            _NEVER,
            r"CALIB|KALIBR|\bASSET\b|\bREF(ERENCE)? ?SCAN|\bCOIL ?SENS|SENSE ?REF|\bSHIM|PRESCAN",
        ),
        ("a screenshot", r"SCREEN|CAPTURE|SNAPSHOT", r"SCREEN ?(SAVE|SHOT)|BILDSCHIRM"),
        (
            "an angiogram or a film",
            r"ANGIO|PERFUSION",
            r"ANGIO|\bTOF\b|\bC?E?MRA\b|\bTWIST\b|\bTRICKS\b|\bPERF|\bDYN|\bCINE\b|\bCSF ?FLOW|\bFLOW\b(?! ?COMP)",
        ),
    )
]  # fmt: skip
_WITHOUT_CONTRAST: Final = re.compile(
    r"\b(OHNE|SANS|SIN|WITHOUT|W ?O|NON|NO|PRE|VOR|AVANT|ANTES( DE)?)( DE)? ?(KM|GD|GAD\w*|CONTRAST\w*|KONTRAST\w*"
    r"|INJ\w*|IV|CM)\b"
    r"|\bNATIV\w*|単純|平扫|造影前|增强前"
)
_CONTRAST: Final = re.compile(
    r"\bPOST\b(?! ?OP)|\+ ?(C|GD|GAD\w*|KM|CM)\b|\bC ?\+|\bGD\b|\bGADO?\w*|\bKM\b|\bCE\b|\bCONTRAST|\bKONTRAST"
    r"|\bINJ\b|INJECT|INYEC"
    r"|\bDOTAREM|\bDTPA\b|\bCIV\b|造影|増強|增强"
)
#: What scanners and people write into the tag of the agent where there was none.
_NO_AGENT: Final = re.compile(
    r"(NO(NE|T\b.*)?|N ?A|NIL|NULL|OFF|0|KEIN\w*|OHNE|AUCUN|SANS|NINGUNO|SIN|FALSE|UNKNOWN|無|无|なし)?"
)
_GRADIENT: Final = re.compile(
    r"T2 ?(W ?)?(\*|STAR|FFE|GRE)|\b(MEDIC|MERGE|M?FFE|T[12]FFE|GRE|FLASH|FISP|TRUFISP|TRUFI|CISS|FIESTA\w*|B ?FFE"
    r"|B ?TFE"
    r"|COSMIC|SWI|SWAN|VIBE|LAVA|THRIVE|DESS|ADAGE|SPGR|FSPGR|TFE|3D ?TFE|PSIF)\b|グラディエント|梯度"
)
_STIR: Final = re.compile(r"STIR|TIRM|\bTIR\b|\bF?SE ?IR\b|\bFIR\b|\bIR ?F?SE\b|\bTURBO ?IR\b|短 ?TI")
_FLAIR: Final = re.compile(r"FLAIR")
_T1: Final = re.compile(r"T1(?![0-9])")
_T2: Final = re.compile(r"T2(?![0-9])|\bFRFSE|\bDRIVE\b|\bRESTORE\b")
_PD: Final = re.compile(r"\bPDW?\b|\bDP\b|\bPROTON|\bDENSI(TE|DAD)|PROTONEN|プロトン|质子|質子")
_LUMBAR: Final = re.compile(
    r"LUMB|\b(L|LS|TL|CTL) ?SPINE|\bLWS\b|LENDEN|LOMB|SACR(?!O ?ILI)|SAKR(?!O ?ILI)|\b(WHOLE|TOTAL|ENTIRE|FULL) ?SPINE"
    r"|\bGANZE? ?WS\b|GANZE WIRBEL|RACHIS (ENTIER|COMPLET)|COLUMNA (TOTAL|COMPLETA)|腰|全脊"
)
_ELSEWHERE: Final = re.compile(
    r"\b(HEAD|BRAIN|SKULL|SCHADEL|SCHAEDEL|KOPF|HIRN|CRAN[EI]\w*|CEREBR\w*|ENCEPHAL\w*|CABEZA|PITUITARY|ORBITS?|IAC"
    r"|SELLA)\b"
    r"|\b(CERVICAL\w*|CSPINE|C ?SPINE|HWS|HALSWIRBEL\w*|HALS|NECK|COU|CUELLO)\b"
    r"|\b(THORA\w*|TORA\w*|TSPINE|T ?SPINE|BWS|BRUST\w*|DORSAL\w*|CHEST)\b"
    r"|\b(SACRO ?ILI\w*|SAKRO ?ILI\w*|ISG|SIJ|SI JOINTS?|KNEE|KNIE|GENOU|RODILLA|SHOULDER|SCHULTER|EPAULE|HOMBRO|HIPS?"
    r"|HUEFTE|HUFTE|HANCHE|CADERA|ANKLE|SPRUNG\w*|CHEVILLE"
    r"|TOBILLO|WRIST|HAND|POIGNET|MUNECA|ELBOW|ELLBOGEN|COUDE|CODO|FOOT|FUSS|PIED|THIGH|FEMUR|LEG|EXTREMITY)\b"
    r"|\b(ABDOM\w*|LIVER|LEBER|FOIE|HIGADO|PELVI\w*|BECKEN|BASSIN|PROSTAT\w*|BREAST|MAMMA|SEIN|MAMA|HEART|CARDI\w*|HERZ"
    r"|KIDNEY|NIERE\w*|MRCP)\b|頭|脳|颅|脑|头|頸|颈|胸|膝|肩|股関節|髋|踝|足関節|手関節|手腕|腹|肝|骨盤|盆腔|乳|心臓|心脏"
)


def words(text: str) -> str:
    """A text in capitals without accents and punctuation (but + and *), its words and scripts parted by spaces."""
    decomposed = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text[:_LONGEST]))
    plain = unicodedata.normalize("NFC", "".join(char for char in decomposed if not "\u0300" <= char <= "\u036f"))
    spaced = re.sub(r"[^\w*+]|_", " ", plain.upper())
    spaced = re.sub(r"(?<=[^\x00-\x7f])(?=[A-Z0-9])|(?<=[A-Z0-9])(?=[^\x00-\x7f])", " ", spaced)
    return " ".join(spaced.split())


def role(facts: Facts, plane: Plane | None, images: int) -> Role:
    """The part that images of these headers play, and why; or why they play none."""
    if why := _no_image(facts, images) or _odd(facts) or _elsewhere(facts):
        return Role(None, why)
    if plane is None:
        return Role(None, "its headers do not say how the slices lie (ImageOrientationPatient)")
    weighting, why = weighting_of(facts)
    if weighting is None:
        return Role(None, why)
    text = words(facts.description or facts.protocol)
    if _enhanced(facts, text, weighting):
        return Role(None, f"{plane} {weighting} after contrast medium")
    saturated = weighting != "STIR" and bool(_FAT_SATURATED.search(text) or "FS" in facts.options.upper().split("\\"))
    told = f"{plane}, {'fat-suppressed ' * saturated}{weighting}: {why}"
    if plane == "sagittal" and weighting == "T1":
        if saturated:
            return Role(None, f"{told}; as is made after contrast medium")
        return Role("Sagittal T1", told)
    if plane == "sagittal":
        return Role("Sagittal T2/STIR", told, not saturated and weighting == "T2")
    if plane == "axial" and weighting == "T2":
        return Role("Axial T2", told, not saturated)
    return Role(None, f"{told}; no part asks for that")


def _no_image(facts: Facts, images: int) -> str:
    modality = facts.modality.upper()
    if modality not in ("", "MR"):
        return f"its modality is {modality[:16]}, not MR"
    kind = UID(facts.kind)
    if kind.type == "SOP Class" and kind not in _MR:
        return f"a {kind.name.removesuffix(' Storage')}, no MR image"
    return "" if images else "it holds no images"


def _odd(facts: Facts) -> str:
    """The kind of series that no part asks for, by ImageType, words, or b-value; empty where it is of none."""
    types = facts.image_type.upper()
    own = words(facts.description or facts.protocol)
    for odd in _ODD:
        if found := odd.types.search(types):
            return f"{odd.what}: ImageType says {found.group().strip(chr(92))}"
        if found := odd.words.search(own):
            return f"{odd.what}: it is called {found.group().strip()}"
    if any(numbers(facts.b_value)) or "EP" in facts.sequence.upper().split("\\"):
        return "diffusion-weighted or another echo-planar sequence"
    return ""


def _elsewhere(facts: Facts) -> str:
    """Which other part of the body is named; empty where the lumbar spine is, or nothing."""
    for text in (facts.description, facts.protocol, facts.study_description):
        plain = words(text)
        if _LUMBAR.search(plain):
            return ""
        if found := _ELSEWHERE.search(plain):
            return f"another part of the body: {found.group().strip()}"
    part = words(facts.body_part)
    if not _LUMBAR.search(part) and (found := _ELSEWHERE.search(part)):
        return f"another part of the body: BodyPartExamined is {found.group()}"
    return ""


def _enhanced(facts: Facts, text: str, weighting: str) -> bool:
    """Whether it was made after contrast medium; T2 is what it was before, unless people say otherwise."""
    if _CONTRAST.search(_WITHOUT_CONTRAST.sub(" ", text)):
        return True
    agent, volume = words(facts.agent), numbers(facts.agent_volume)
    none = _NO_AGENT.fullmatch(agent) or _WITHOUT_CONTRAST.search(f"{text} {agent}") or (volume and not any(volume))
    return weighting == "T1" and not none


def weighting_of(facts: Facts) -> tuple[str | None, str]:
    """`T1`, `T2` or `STIR`, None for another; and what tells. Times count, words where times tell nothing."""
    own, protocol = words(facts.description), words(facts.protocol)
    sequence = facts.sequence.upper().split("\\")
    steady = {"GR", "SS", "TRSS"} & {*sequence, *facts.variant.upper().split("\\")}
    if (steady and not {"SE", "IR"} & {*sequence}) or _GRADIENT.search(own or protocol):
        return None, "a gradient echo"
    by_times, times = _by_times(facts, sequence)
    for text in (own, protocol):
        by_words = _by_words(text, facts)
        if by_words is not None:
            break
    if by_words == "STIR" and (by_times != "T1" or "IR" in sequence):
        return "STIR", f"it is called STIR or alike{times and f'; {times}'}"
    if by_words == "PD" and by_times in (None, "PD", "T2"):
        return None, "proton density-weighted"
    if by_times in ("T1", "T2", "STIR"):
        against = by_words is not None and by_words != by_times and (by_words, by_times) != ("T2", "STIR")
        return by_times, times + (f", though it is called {by_words}" if against else "")
    if by_times == "FLAIR" or by_words == "FLAIR":
        return None, f"a FLAIR{times and f' ({times})'}"
    if by_words in ("T1", "T2") and not (by_times == "PD" and by_words == "T2"):
        return by_words, f"it is called {by_words}{times and f'; {times}'}"
    if by_times == "PD":
        return None, f"proton density-weighted: {times}"
    return None, f"neither times nor words tell T1 from T2{times and f' ({times})'}"


def _by_times(facts: Facts, sequence: list[str]) -> tuple[str | None, str]:
    """The weighting that echo, repetition and inversion time make, and the times in words."""
    echo, repetition, inversion = (
        next((value for value in numbers(text) if value > 0), None)
        for text in (facts.echo, facts.repetition, facts.inversion)
    )
    told = {"TE": echo, "TR": repetition, "TI": inversion}
    times = " ".join(f"{name} {value:g}" for name, value in told.items() if value is not None)
    times += " ms" if times else ""
    if echo is None:
        return None, times
    if inversion is not None and (repetition is None or repetition >= LONG_REPETITION_MS or "IR" in sequence):
        if STIR_INVERSION_MS[0] <= inversion <= STIR_INVERSION_MS[1]:
            return "STIR", times
        if inversion >= FLAIR_INVERSION_MS:
            return "FLAIR", times
        if inversion > STIR_INVERSION_MS[1] and echo < T1_ECHO_MS:
            return "T1", times
    if echo >= T2_ECHO_MS and (repetition is None or repetition >= LONG_REPETITION_MS):
        return "T2", times
    if echo < T1_ECHO_MS and repetition is not None:
        return "T1" if repetition < LONG_REPETITION_MS else "PD", times
    return None, times


def _by_words(text: str, facts: Facts) -> str | None:
    """The weighting that a name says, None where it says none or several; `T2/STIR` is what the sequence says."""
    found = [name for name, pattern in (("T1", _T1), ("T2", _T2)) if pattern.search(text)]
    inverted = not facts.sequence or "IR" in facts.sequence.upper().split("\\") or any(numbers(facts.inversion))
    if _STIR.search(text) and (inverted or found != ["T2"]):
        return "STIR"
    if not found and _PD.search(text):
        return "PD"
    if _FLAIR.search(text) and found != ["T1"]:
        return "FLAIR"
    return found[0] if len(found) == 1 and not (_PD.search(text) and found == ["T2"]) else None
