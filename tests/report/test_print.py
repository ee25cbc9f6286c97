"""The report on paper: nothing is cut off, details are open, no page is empty."""

from __future__ import annotations

import base64
import re
import zlib
from pathlib import Path

import pytest
from support.browser import PROGRAM, browser
from support.store_artifacts import plant

from deconstruct.report import page
from deconstruct.store import open_store, publish, run_id_of

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs Chromium")

WIDTH = 718
"""Pixels of a line on A4, within the margins that a browser leaves."""
BEYOND = """
[...document.querySelectorAll('main *')].filter(one => {
    const box = one.getBoundingClientRect();
    return box.width && !one.closest('.visually-hidden') && box.right > innerWidth + 1
}).map(one => one.outerHTML.slice(0, 300)).slice(0, 5)
"""
CLOSED = """
[...document.querySelectorAll('details')].filter(one => {
    const last = [...one.children].at(-1);
    return last.tagName != 'SUMMARY' && !last.getBoundingClientRect().height
}).map(one => one.outerHTML.slice(0, 300)).slice(0, 5)
"""
CUT = """
[...document.querySelectorAll('main *')].filter(one => {
    const style = getComputedStyle(one);
    return ['auto', 'scroll', 'hidden'].includes(style.overflowX)
        && !one.closest('.visually-hidden, svg') && one.scrollWidth > one.clientWidth + 1
}).map(one => one.outerHTML.slice(0, 300)).slice(0, 5)
"""


def pages_of(pdf: bytes) -> list[int]:
    """Bytes of what is drawn on each page of a PDF that Chromium has written."""
    bodies = {
        int(number): body
        for number, body in re.findall(rb"(\d+) 0 obj\s(.*?)endobj", pdf, re.DOTALL)
    }
    found = []
    for body in bodies.values():
        if re.search(rb"/Type\s*/Page\b", body):
            [content] = re.findall(rb"/Contents (\d+) 0 R", body)
            stream = bodies[int(content)].partition(b"stream")[2].strip(b"\r\n")
            found.append(len(zlib.decompressobj().decompress(stream)))
    return found


def test_on_paper_nothing_is_cut_off_and_no_page_is_empty(tmp_path: Path) -> None:
    run = plant(tmp_path)
    publish(tmp_path, run.record, run.artifacts)
    with open_store(tmp_path, files=False) as store:
        file = page.write(store, run_id_of(run.artifacts), tmp_path / "page.html")
    with browser(tmp_path / "profile") as tab:
        tab.go(file.as_uri())
        pdf = base64.b64decode(tab.tell("Page.printToPDF", printBackground=True)["data"])
        sizes = pages_of(pdf)
        assert len(sizes) > 3
        assert min(sizes) > 1000
        tab.tell(
            "Emulation.setDeviceMetricsOverride",
            width=WIDTH, height=1000, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        tab.tell("Emulation.setEmulatedMedia", media="print")
        assert tab.value(CLOSED) == []
        assert tab.value(CUT) == []
        assert tab.value(BEYOND) == []
        assert tab.too_wide() <= 0
