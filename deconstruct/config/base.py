"""What all configuration shares."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, field_validator

LARGEST = 2**63 - 1
"""What databases, seeds and counts hold, ours and Prefect's."""

NO_KEY: dict[str, JsonValue] = {"in_key": False}
"""Of a field (``json_schema_extra``) that names what enters a key otherwise, or is about no result:
a place whose content is digested, a way to a setting that is resolved."""


class Settings(BaseModel):
    """Base of all configuration: frozen, and it refuses fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _in_64_bits(cls, value: Any) -> Any:
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and abs(number) > LARGEST:
                raise ValueError(f"{number} does not fit into 64 bits")
        return value

    def key_fields(self) -> dict[str, Any]:
        """The fields that are part of the stage's key, as JSON types."""
        return self.model_dump(mode="json", exclude=self._outside_key())

    def _outside_key(self) -> set[str]:
        return {name for name, field in type(self).model_fields.items() if _marked(field)}


def _marked(field: Any) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and extra.get("in_key") is False
