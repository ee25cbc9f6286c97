"""What every section is given, and the figures of a section."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import duckdb

from deconstruct.report.chart import Chart, Missing
from deconstruct.report.figures import BY_NAME
from deconstruct.report.reading import verdict
from deconstruct.report.reading.massive import Massive, massive
from deconstruct.report.reading.records import Record, has, records

Found = Mapping[str, Any]
"""What a template shows of a section, by name; charts in it, under ``figures``, are drawn later."""


class Look:
    """A run that is looked at, and what several sections ask of it, asked once."""

    def __init__(
        self,
        store: duckdb.DuckDBPyConnection,
        run_id: str,
        base: str | None = None,
        called: tuple[str, str] | None = None,
    ) -> None:
        """base: the run that it is compared with; None: the one before of its name, if any.
        called: the name and analysis that it is looked at under; None: the last ones."""
        self.store = store
        self.run_id = run_id
        self.run = verdict.about(store, run_id)
        if called is not None:
            self.run |= {"plain": called[0], "analysed": called[1]}
        self.base = base or verdict.before(store, self.run)
        self.named: list[int] = []
        """Latents that sections speak of, in their order, for the table of the dictionary."""

    def records(self, query: str, **bound: Any) -> list[Record]:
        """Rows of the run: the query has ``$run_id``."""
        return records(self.store, query, run_id=self.run_id, **bound)

    def has(self, relation: str) -> bool:
        """Whether the run has rows of a relation."""
        return has(self.store, relation, self.run_id)

    def name(self, latents: Iterable[int]) -> None:
        """Have the table of the dictionary hold these latents."""
        self.named.extend(latents)

    def figures(self, *names: str) -> dict[str, Chart]:
        """Those of these figures that the run has something of."""
        found = {}
        for name in names:
            try:
                found[name] = BY_NAME[name](self.store, self.run_id)
            except (KeyError, Missing):
                continue
        return found

    @cached_property
    def head(self) -> dict[str, Record]:
        """The headline figures; see `deconstruct.report.reading.verdict.headlines`."""
        return verdict.headlines(self.store, self.run_id)

    @cached_property
    def changes(self) -> list[verdict.Change]:
        """Differences to the run that it is compared with; none of the first of its name."""
        return verdict.changes(self.store, self.run_id, self.base) if self.base else []

    @cached_property
    def massive(self) -> Massive:
        """Massive activations."""
        return massive(self.store, self.run_id)
