"""A stage that writes two files, one in a folder; what an earlier attempt completed stays."""

from __future__ import annotations

from deconstruct.artifacts import Draft


def write(draft: Draft) -> None:
    for name in ("a.txt", "sub/b.txt"):
        if not draft.has(name):
            with draft.writing(name) as path:
                path.write_text(f"contents of {name}")
    draft.facts["documents"] = 2
