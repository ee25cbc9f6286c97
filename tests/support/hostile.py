"""What people bring and what must be shown, but never obeyed: names, labels, texts and paths."""

from __future__ import annotations

import re

HOSTILE = {
    "red": "a\x1b[31mred",
    "title": "a\x1b]0;owned\x07b",
    "link": "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "one-byte control": "a\x9b31mb\x9d0;owned\x9c",
    "backspace": "good\b\b\b\bevil",
    "carriage return": "evil\rgood",
    "line": "a\nerror: forged line",
    "closing": "[/]",
    "closing bold": "a[/bold]b",
    "markup": "[red]a[/red][link=http://evil.example]b[/link]",
    "emoji": ":bomb:",
    "right to left": "a\u202etxt.exe",
    "isolate": "a\u2066b\u2069",
    "zero width": "a\u200bb\ufeff",
    "long": "x" * 100,
    "quotes": 'it\'s "a" `b` ´c´',
    "slashes": "../../a/b\\c",
    "html": "<img src=x onerror=alert(1)><script>alert(1)</script>",
    "markdown": "![x](http://evil.example/x.png) [a](javascript:alert(1)) # b",
    "pipe": "a | b || c",
    "backticks": "`` a ``` b `",
    "url": "see http://evil.example and www.evil.example",
    "placeholder": "%s %(name)s {name} {0}",
    "formula": "=cmd|'/c calc'!A1",
    "percent": "$(touch owned) `touch owned` $HOME !!",
    "blank": " ",
    "empty lines": "\n\n\n",
}
"""By what is wrong with it."""

LONGEST_NAME = 100


def obeyed(text: str) -> set[str]:
    """Characters of a printed page that a terminal would obey, or that turn writing round."""
    return {c for c in re.sub(r"\n", "", text) if not c.isprintable()}
