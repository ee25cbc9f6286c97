"""What all sites, SAEs and analyses of one run share, and what is recorded for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from deconstruct.activations.window import Stream
from deconstruct.artifacts import Artifact
from deconstruct.config import TRAINING, CorpusConfig, Growth, RunConfig
from deconstruct.corpus.sources import ResolvedSource
from deconstruct.model.resolve import ResolvedModel
from deconstruct.recurring.standing import Standing


@dataclass(frozen=True)
class Recorded:
    """What an SAE is trained or judged on: a corpus and its activations at one site.

    output: those of the site that a transcoder makes of them; None: an autoencoder.
    """

    corpus: Artifact
    activations: Artifact
    output: Artifact | None


@dataclass(frozen=True)
class Streamed:
    """What an SAE is trained on where none of it is recorded: ``activations.keep = "window"``.

    output: see `Recorded`.
    """

    corpus: Artifact
    activations: Stream
    output: Stream | None


AtSite = Mapping[str, Recorded | Streamed]
"""What is recorded at one site, by analysis; what the SAE is trained on is `TRAINING`."""


def on_disk(recorded: AtSite, analysis: str) -> Recorded:
    """What an SAE is judged on, which is always recorded (`RunConfig` sees to it)."""
    found = recorded[analysis]
    assert isinstance(found, Recorded)
    return found


@dataclass(frozen=True)
class Running:
    """What all sites, SAEs and analyses of one run share.

    other: the sources of ``config.evaluation.other``. standing: site -> the run that this one goes
    on from.
    """

    config: RunConfig
    model: ResolvedModel
    device: str
    started: datetime
    other: tuple[ResolvedSource, ...] = ()
    growth: Growth = "anew"
    standing: Mapping[str, Standing] = field(default_factory=dict)

    @property
    def trains(self) -> bool:
        """Whether there is a site whose SAE is not there already, nor trained by others."""
        if self.config.sae.pretrained is not None:
            return False
        output = self.config.sae.output_site
        kept = [site for site, one in self.standing.items() if one.stays(self.growth)]
        return not {*self.config.activations.sites} <= {*kept, output}

    def corpora(self) -> dict[str, CorpusConfig]:
        """What is read, by analysis: what is judged on, and what is trained on, if anything is."""
        analysed = self.config.analysed()
        return {TRAINING: self.config.corpus} | analysed if self.trains else analysed

    @property
    def streams(self) -> bool:
        """Whether the activations that are trained on are kept nowhere."""
        return self.config.activations.keep == "window"

    def about(self, analysis: str = TRAINING, site: str = "") -> str:
        """Of what the next stages are, as far as there is a choice; else empty."""
        which = site if len(self.config.activations.sites) > 1 else ""
        return f"{which} {analysis if self.config.analysis else ''}".strip()
