"""Documents, tokens, labels and names of runs that would be markup: in the report they are text."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, cast

import pytest
from support import store_artifacts
from support.browser import PROGRAM, browser
from support.hostile import HOSTILE, obeyed
from support.store_artifacts import plant

from deconstruct.common.showing import printable
from deconstruct.config import RunConfig
from deconstruct.report import page, trend
from deconstruct.store import open_store, publish, run_id_of

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs Chromium")

PARTS = [
    "<script>window.owned = 1</script>", "</script><script>window.owned = 1</script>",
    "</style><style>body { display: none }</style>", "]]>", "<!--", "-->", "<![CDATA[",
    '"><img src=x onerror="window.owned = 1">', "'onfocus='window.owned=1' autofocus='",
    "<svg onload=window.owned=1>", "</svg>", "</title>", "{{ 7 * 7 }}", "{% raw %}", "&lt;b&gt;",
    "&#x202e;", "javascript:window.owned=1", "\u202e", "\u2066", "\u200f", "\x1b[31m",
    "\x07", "\u2028", "\ufeff", "\n", "\t", "datum.x", "${window.owned = 1}", "\\",
    "\\u003cscript>",
]  # fmt: skip


def drawn(seed: int, n: int) -> list[str]:
    """Texts of some such parts each, in a random order."""
    draw = random.Random(seed)
    return ["".join(draw.sample(PARTS, 4)) + str(i) for i in range(n)]


@pytest.mark.parametrize(("seed", "longest"), [(0, 1_000_000), (1, 3_000)])
def test_whatever_people_bring_stays_text(
    seed: int, longest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are tokens, documents, labels, the name, the model and the source of a run."""
    texts = drawn(seed, 12)
    others = random.Random(seed).sample(list(HOSTILE.values()), 8)
    words = (" goal", *texts[:6], "<b>" + "x" * longest, *others)
    monkeypatch.setattr(store_artifacts, "WORDS", words)
    ids = {word: number for number, word in enumerate(("<bos>", " of", *words))}
    monkeypatch.setattr(store_artifacts, "TOKEN_IDS", ids)
    labels = cast(Any, tuple(texts[6:9]))
    planted = plant(tmp_path, "first", seed=seed, names=labels, documents=9)
    config = RunConfig(name=texts[9], model={"name": texts[10]}, corpus={"source": texts[11]})
    record = planted.record.model_copy(update={"config": config})
    publish(tmp_path, record, planted.artifacts)
    run_id = run_id_of(planted.artifacts)
    with open_store(tmp_path, files=False) as store:
        files = [
            page.write(store, run_id, tmp_path / "page.html"),
            trend.write(store, texts[9], tmp_path / "trend.html"),
        ]
    with browser(tmp_path / "profile") as tab:
        tab.listen()
        for file in files:
            assert file.stat().st_size < 5_000_000
            tab.go(file.as_uri())
            height = int(tab.value("document.documentElement.scrollHeight"))
            for place in range(0, height, 700):
                tab.value(f"scrollTo(0, {place})")
            tab.wait("!document.querySelector('script.spec') || !!document.querySelector('.live')")
            assert tab.value("typeof window.owned") == "undefined"
            assert tab.faults == []
            assert set(tab.requests.values()) <= {one.as_uri() for one in files}
            strange = (
                "img, iframe, object, embed, link, base, [autofocus], form:not(.vega-bindings)"
            )
            assert tab.value(f"document.querySelectorAll({json.dumps(strange)}).length") == 0
            assert tab.value(
                "[...document.querySelectorAll('[style]')].every(e => e.closest('.live'))"
            )
            scripts = "document.querySelectorAll('script:not(.spec)').length"
            assert tab.value(scripts) == 2
            assert tab.value("document.querySelectorAll('style').length") == 1
            events = "[...document.querySelectorAll('*')].some(e => [...e.attributes].some("
            assert not tab.value(events + "a => a.name.startsWith('on')))")
            shown = tab.value(
                "(() => { const all = document.body.cloneNode(true); "
                "all.querySelectorAll('script').forEach(one => one.remove()); "
                "return all.textContent; })()"
            )
            assert not obeyed(shown)
            assert printable(texts[9])[:60] in shown
            assert tab.too_wide() <= 0
    with open_store(tmp_path, files=False) as store:
        text = page.report(store, run_id)
    assert "<script>window" not in text
