"""Corpora that an SAE is judged on, beside the one that it is trained on."""

from __future__ import annotations

import re

from pydantic import Field, field_validator, model_validator

from deconstruct.config.base import NO_KEY
from deconstruct.config.corpus import CorpusConfig

TRAINING = "corpus"
"""What the analysis of the training corpus is called."""
NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class AnalysisConfig(CorpusConfig):
    """A corpus that the SAE is judged on, and that it is not trained on."""

    source: str | tuple[str, ...] = Field(
        "",
        description="As in `[corpus]`; the analysis named `corpus` has none: it is of the training "
        "corpus itself.",
        json_schema_extra=NO_KEY,
    )
    name: str = Field(
        description="What the analysis is called: letters, digits, - and _. Its runs are found as "
        "`NAME/ANALYSIS`.",
        json_schema_extra=NO_KEY,
    )

    @field_validator("name")
    @classmethod
    def _stands_in_a_path(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(
                "a name has letters, digits, - and _, at most 64, and begins with one of the first "
                "two"
            )
        return name

    @model_validator(mode="after")
    def _has_texts(self) -> AnalysisConfig:
        if self.name != TRAINING:
            if not self.place.strip():
                raise ValueError(
                    f"the analysis {self.name!r} has no source; name its texts, or call it "
                    f"{TRAINING!r} for those that the SAE is trained on"
                )
            return self
        given = [
            name
            for name, field in CorpusConfig.model_fields.items()
            if getattr(self, name) != ("" if name == "source" else field.get_default())
        ]
        if given:
            raise ValueError(
                f"the analysis {TRAINING!r} is of [corpus] itself, as it stands there; leave out "
                f"{', '.join(given)}, or give the analysis another name"
            )
        return self
