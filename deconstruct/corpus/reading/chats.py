"""Chats as texts: a tokenizer's own template puts a role's marks around each message."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconstruct.common.errors import ConfigError, DataError

TEMPLATE = "chat_template.jinja"
"""In a model's folder; an older one has its template in ``tokenizer_config.json``."""
_MARK = "\ue000\ue001"
"""What stands in a message's place, to see where that ends up: of characters for private use."""
_ONE_DAY = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"
"""Before a template that asks for the date: a text must not be another one tomorrow. The day is the
one that Llama 3.1's template falls back to."""
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")

Spans = NDArray[np.int64]
"""From which character of a text to which: [spans, 2], in order."""


def template_of(folder: Path) -> Path | None:
    """The file beside a tokenizer's own that decides what its template is, if there is one."""
    file = folder / TEMPLATE
    return file if file.is_file() else None


class Chats:
    """Makes texts of chats. tokenizer: a fast one of `transformers`; role: whose messages are
    recorded; "all": every token."""

    def __init__(self, tokenizer: Any, role: str, model: str) -> None:
        """Raises ``ConfigError`` for a tokenizer without a template."""
        template = tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("default")
        if not template:
            raise ConfigError(
                f"corpus.roles {role!r}: the tokenizer of {model!r} has no chat template; take "
                "a model that was made for chats, or leave corpus.roles out"
            )
        self._tokenizer, self._role = tokenizer, role
        self._template = _ONE_DAY + template if "strftime_now" in template else template
        self._marked = role == "assistant" and _GENERATION.search(template) is not None

    def text_of(self, cell: str) -> str | None:
        """A chat as its template has it; None for one without messages. cell: as JSON."""
        messages = messages_of(cell)
        return self._rendered(messages) if messages else None

    def spans_of(self, cell: str) -> Spans:
        """Which characters of a chat's text are of messages of the role.

        Where the template says itself what an assistant generates (``{% generation %}``), that;
        else what differs from the text that the same chat has with another message in its place.
        """
        messages = messages_of(cell)
        if self._marked:
            found = list(self._generated(messages))
        else:
            text = self._rendered(messages)
            found = [
                self._differing(text, messages, number)
                for number, message in enumerate(messages)
                if message["role"] == self._role
            ]
        return np.array([span for span in found if span[0] < span[1]], np.int64).reshape(-1, 2)

    def _generated(self, messages: list[dict[str, Any]]) -> Iterator[tuple[int, int]]:
        found = self._applied(
            messages,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            tokenizer_kwargs={"return_offsets_mapping": True},
        )
        for (start, end), chosen in zip(
            found["offset_mapping"], found["assistant_masks"], strict=True
        ):
            if chosen:
                yield start, end

    def _differing(self, text: str, messages: list[dict[str, Any]], number: int) -> tuple[int, int]:
        other = messages.copy()
        other[number] = messages[number] | {"content": _MARK}
        marked = self._rendered(other)
        start = _alike(text, marked)
        after = _alike(text[start:][::-1], marked[start:][::-1])
        return start, len(text) - after

    def _rendered(self, messages: list[dict[str, Any]]) -> str:
        return str(self._applied(messages, tokenize=False))

    def _applied(self, messages: list[dict[str, Any]], **how: Any) -> Any:
        from jinja2 import TemplateError

        try:
            return self._tokenizer.apply_chat_template(
                messages, chat_template=self._template, **how
            )
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            roles = ", ".join(str(message["role"]) for message in messages[:6])
            raise DataError(
                f"corpus.roles: the chat template does not take a chat of the roles {roles} "
                f"({' '.join(str(error).split())[:200]}); leave such chats out of the source"
            ) from error


def messages_of(cell: str) -> list[dict[str, Any]]:
    """The messages of a cell, without what is null in them. Raises ``DataError`` unless it is a
    list of objects with a role and a content, both text."""
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(map(_is_message, found)):
        raise DataError(
            f"corpus.text_column holds {cell[:80]!r}, no chat as corpus.roles has it; a chat is a "
            'list of messages, such as [{"role": "user", "content": "..."}]'
        )
    return [{name: value for name, value in one.items() if value is not None} for one in found]


def _alike(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    both = enumerate(zip(one, other, strict=False))
    return next((n for n, (ours, theirs) in both if ours != theirs), min(len(one), len(other)))


def _is_message(found: Any) -> bool:
    return isinstance(found, dict) and all(
        isinstance(found.get(name), str) for name in ("role", "content")
    )


def as_cell(found: Any) -> Any:
    """A chat as a source has it, nested, as the JSON that rows carry; what is no list as it is."""
    return json.dumps(found, default=str) if isinstance(found, list) else found


def recorded(starts: NDArray[np.int64], spans: Spans) -> NDArray[np.bool_]:
    """Whether tokens begin within one of some spans. starts: [tokens], -1 for none of the text."""
    if len(spans) == 0:
        return np.zeros(len(starts), np.bool_)
    place = np.searchsorted(spans[:, 0], starts, side="right") - 1
    within: NDArray[np.bool_] = (place >= 0) & (starts < spans[place.clip(0), 1])
    return within
