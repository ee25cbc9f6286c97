"""What all configuration shares."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue

NO_KEY: dict[str, JsonValue] = {"in_key": False}
"""Of a field (``json_schema_extra``) that names what enters a key otherwise, or is about no result:
a place whose content is digested, a way to a setting that is resolved."""


class Settings(BaseModel):
    """Base of all configuration: frozen, and it refuses fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def key_fields(self) -> dict[str, Any]:
        """The fields that are part of the stage's key, as JSON types."""
        return self.model_dump(mode="json", exclude=self._outside_key())

    def _outside_key(self) -> set[str]:
        return {name for name, field in type(self).model_fields.items() if _marked(field)}


def _marked(field: Any) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and extra.get("in_key") is False
