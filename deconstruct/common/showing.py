"""What people bring is shown, and never obeyed: names, labels, texts and paths hold anything.

An escape sequence among them would move the cursor or set a title, a line feed would forge a line,
`[/]` is markup to rich, `<b>` and a pipe are so to Markdown, `=1+1` is a formula to a spreadsheet.
Whatever this house prints goes through here: `say` for a sentence, `Plain` for pages,
`plain_record` for logs, `code` for Markdown, `json_text` for JSON, `harmless` for cells of a file
that a spreadsheet opens.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shlex
import sys
import traceback
from collections.abc import Iterable
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

_SHORT = {"\n": "⏎", "\t": "⇥"}
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
"""What a spreadsheet takes for the beginning of a formula."""
_NUMBER = re.compile(r"[-+]?\d[\d.,]*(?:e[-+]?\d+)?", re.IGNORECASE)
_BACKTICKS = re.compile("`+")


def printable(text: str) -> str:
    """``text`` on one line, with all that is no printable character spelled out: controls, marks
    that turn the direction of writing, halves of surrogates."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _SHORT.get(c) or _spelled(c) for c in text)


def _spelled(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def lines(text: str) -> str:
    """As `printable`, but lines stay lines."""
    return text if text.isprintable() else "\n".join(map(printable, text.split("\n")))


def say(text: object, error: bool = False) -> None:
    """Print one line on standard output, or standard error, at once."""
    print(printable(str(text)), file=sys.stderr if error else sys.stdout, flush=True)


class Plain(Console):
    """A console to which a string is text: without markup, emoji, highlights and controls.

    Styles come from `rich.text.Text` and tables alone, which this house makes.
    """

    def __init__(
        self, file: IO[str] | None = None, width: int | None = None, stderr: bool = False
    ) -> None:
        super().__init__(
            file=file, width=width, stderr=stderr, markup=False, emoji=False, highlight=False
        )

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Segments as rich makes them, their texts printable."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else lines(text), style, control)

    def on_broken_pipe(self) -> None:
        """Leave it to the command; rich would end with exit code 1."""
        raise BrokenPipeError


def plain_record(record: logging.LogRecord) -> bool:
    """A filter for handlers: what a log line says is printable, on one line where it is ours.

    Other libraries' lines, and tracebacks, keep their breaks. Lets every record pass.
    """
    own = record.name.partition(".")[0] == "deconstruct"
    record.msg = (printable if own else lines)(record.getMessage())
    record.args = None
    if record.exc_info and record.exc_info[0] is not None:
        record.exc_text = lines("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"))
    return True


def code(text: object, cell: bool = False) -> str:
    """``text`` as Markdown's code: no links, HTML, images or emphasis. cell: of a table, where a
    pipe would begin another."""
    shown = printable(str(text))
    if cell:
        shown = shown.replace("|", "\\|")
    fence = "`" * (1 + max(map(len, _BACKTICKS.findall(shown)), default=0))
    blank = " " if not shown.strip() or "`" in (shown[0], shown[-1]) else ""
    return f"{fence}{blank}{shown}{blank}{fence}"


def quoted(argument: str) -> str:
    """An argument for a shell: in the quotes that SQL has no use for where that is safe, and
    spelled out (``$'...'``) where it would not show."""
    if not argument.isprintable():
        return "$'" + "".join(map(_in_dollar_quotes, argument)) + "'"
    if "'" in argument and not set(argument) & set('"$`\\!'):
        return f'"{argument}"'
    return shlex.quote(argument)


def _in_dollar_quotes(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if character.isprintable():
        return character
    raw = character.encode("utf-8", "surrogateescape")
    return "".join(f"\\x{byte:02x}" for byte in raw)


def harmless(value: Any) -> Any:
    """A cell of a CSV file that no spreadsheet takes for a formula; numbers stay as they are."""
    if isinstance(value, str) and value.startswith(_FORMULA) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def json_text(value: Any, indent: int | None = None, encoding: str = "utf-8") -> str:
    """JSON with all digits of numbers; NaN and infinities are null, and whatever is no printable
    character, or none of ``encoding``, is escaped."""
    text = json.dumps(_finite(value), ensure_ascii=False, default=str, indent=indent)
    if text.isprintable() and _fits(text, encoding):
        return text
    return "".join(
        c if c == "\n" or (c.isprintable() and _fits(c, encoding)) else json.dumps(c)[1:-1]
        for c in text
    )


def say_json(value: Any) -> None:
    """Print one object on standard output."""
    print(json_text(value, indent=1, encoding=sys.stdout.encoding or "utf-8"), flush=True)


def _fits(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return value
