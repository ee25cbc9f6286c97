"""What all configuration shares."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base of all configuration: frozen, and it refuses fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
