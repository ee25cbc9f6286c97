"""What all configuration shares."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, field_validator

from deconstruct.config.form import readable

LARGEST = 2**63 - 1
"""What databases, seeds and counts hold, ours and Prefect's."""

MOST_TOKENS = 10**15
"""Of a training: a hundred times what the largest language models have read."""
MOST_ROWS = 2**31 - 1
"""Of what is held at once: a batch, a shard, a document."""
MOST_LATENTS = 2**24
LARGEST_SEED = 2**32 - 1
"""That scikit-learn takes."""
MOST_WORKERS = 1024
"""Parts that are computed side by side; no setting, but a number as they are."""
FARTHEST = 1e12
"""From zero: what a weight, a rate or a threshold may be; beyond, float32 loses its squares."""

NO_KEY: dict[str, JsonValue] = {"in_key": False}
"""Of a field (``json_schema_extra``) that names what enters a key otherwise, or is about no result:
a place whose content is digested, a way to a setting that is resolved."""
KEY_WHERE_SET: dict[str, JsonValue] = {"in_key": "where set"}
"""Of a field that came after its stage's first release: part of a key only where it is not its
default, so that configurations of before keep their keys."""


class Settings(BaseModel):
    """Base of all configuration: frozen, and it refuses fields that it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, json_schema_extra=readable
    )

    @field_validator("*")
    @classmethod
    def _within_bounds(cls, value: Any) -> Any:
        """Of every field, whatever bounds of its own it has."""
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, int) and abs(one) > LARGEST:
                raise ValueError("it does not fit into 64 bits")
            if isinstance(one, float) and abs(one) > FARTHEST:
                raise ValueError(f"it is beyond {FARTHEST:g}")
            if isinstance(one, str) and ("\0" in one or not _is_text(one)):
                raise ValueError("it has what is no text in it; write it in UTF-8")
        return value

    def key_fields(self) -> dict[str, Any]:
        """The fields that are part of the stage's key, as JSON types."""
        return self.model_dump(mode="json", exclude=self._outside_key())

    def _outside_key(self) -> set[str]:
        return {
            name
            for name, field in type(self).model_fields.items()
            if (mark := _mark(field)) is False
            or (mark == "where set" and getattr(self, name) == field.get_default())
        }


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # bytes of a command line that are no UTF-8
        return False
    return True


def _mark(field: Any) -> Any:
    extra = field.json_schema_extra
    return extra.get("in_key") if isinstance(extra, dict) else None
