"""Pictures of README and docs/looking.md: a run's report and explorer, as Chromium shows them."""

from __future__ import annotations

import io
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from PIL import Image

DOCS = Path(__file__).parent
sys.path.append(str(DOCS.parent / "tests"))

from support.browser import Page, browser  # noqa: E402
from support.explored import running  # noqa: E402

ABOVE = "document.querySelector('nav.strip').offsetHeight"
"""Height of the strip that stays at the top of a page."""
SETTLED_SECONDS = 2
"""Until drawings that scripts make have come in their turn."""


class Picture(NamedTuple):
    """of: a page of the explorer below that of the run; the report, where it is empty. width,
    height: of the window, in pixels. at: what is at its top; empty: the head of the page."""

    name: str
    of: str
    width: int
    height: int
    at: str = ""


PICTURES = (
    Picture("report-1440.png", "", 1440, 800, "#map"),
    Picture("report-390.png", "", 390, 1180),
    Picture("island-1440.png", "/map?of=pooled&massive=yes", 1440, 1300),
)


def take(home: Path, run: str, report: str, folder: Path) -> None:
    """Write all pictures of a run that has a map. report: the address of its report."""
    folder.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as profile,
        running(home) as explorer,
        browser(Path(profile)) as page,
    ):
        for one in PICTURES:
            address = f"{explorer}/run/{run}{one.of}" if one.of else report
            _take(page, one, address, folder / one.name)


def _take(page: Page, one: Picture, address: str, file: Path) -> None:
    page.size(one.width, one.height)
    page.tell("Emulation.setScrollbarsHidden", hidden=True)
    page.go(address)
    if one.at:
        page.value(f"document.querySelector('{one.at}').scrollIntoView()")
        page.value(
            f"scrollBy(0, document.querySelector('{one.at}').getBoundingClientRect().y - {ABOVE})"
        )
    time.sleep(SETTLED_SECONDS)
    page.picture(file)
    whole = Image.open(io.BytesIO(file.read_bytes())).convert("RGB")
    # A page has few colours, and by a palette it is a third as large; this one moves none by much.
    small = whole.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
    small.save(file, optimize=True)
