"""What all pages of ours are made of: plain HTML, CSS and JavaScript in `page/`, joined to one file.

Data enter as JSON, and text as text only.
"""

import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from lumbar.drawing import style
from lumbar.issues import NOTICE

_PAGE: Final = Path(__file__).parent / "page"


def framed(name: str, title: str, scripts: Sequence[str], **parts: str) -> str:
    """The page `name`, with the head of all pages (what it may fetch: nothing; our colours) and the scripts, joined.

    `parts`: what else stands in it with a dollar sign.
    """
    colours = {"ink": style.INK, "paper": style.PAPER, "prior": style.PRIOR_COLOUR}
    return _template(name).substitute(
        head=_template("head.html").substitute(title=title, style=_template("report.css").substitute(colours)),
        notice=NOTICE,
        script="\n".join(_text(script) for script in scripts),
        **parts,
    )


def as_json(value: Any) -> str:
    """JSON that may stand in a script element: no `<`, so that no text can end the element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _text(name: str) -> str:
    return (_PAGE / name).read_text(encoding="utf-8")


def _template(name: str) -> string.Template:
    return string.Template(_text(name))
