"""The stage activations: a model's hidden states over a corpus, as Parquet shards.

One forward pass serves every site that is missing and stops after the last of them. `layout` says
which documents a shard holds and in which batches they are read. A shard is the unit of resuming:
it depends on nothing but its own documents, so that a killed extraction ends with the same bytes.
Shards are written on other threads while the model computes the next one.
"""

from __future__ import annotations

import logging
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from deconstruct.activations import layout, shards
from deconstruct.activations.forward import Forward, dtype_name
from deconstruct.activations.layout import Shard, Tokens
from deconstruct.activations.shards import Moments
from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe, Stage, fsync
from deconstruct.artifacts.ancestry import earlier
from deconstruct.common.hardware import pick_device, pick_dtype
from deconstruct.common.progress import track
from deconstruct.common.site import Site
from deconstruct.config import ActivationsConfig
from deconstruct.model.resolve import ResolvedModel

VERSION = 1
MOMENTS = "moments.safetensors"
GPU_WRITERS = 4
"""Shards that are written side by side where a GPU computes them: packing one takes a core longer
than a GPU takes to compute it (28,700 rows of 768 a second as float32, 94,000 as bfloat16, on one
core of a cloud machine). On a CPU, one: the cores compute."""

log = logging.getLogger("deconstruct.stages")


def recipes(
    config: ActivationsConfig, *, model: ResolvedModel, corpus: Artifact, device: str = "auto"
) -> list[Recipe]:
    """The recipes of ``config.sites``, in their order: each site is an artifact of its own.

    The model's dtype enters as what it comes to on this machine, so that values of two precisions
    never share a key; ``device`` is asked for that alone. How many tokens a pass has, which differs
    by kind of device (`forward`), doesn't enter: it changes rounding, as another kind of GPU does,
    and who plans a run need not know where a stage of it will be computed.
    """
    settings = config.key_fields()
    settings["dtype"] = dtype_name(pick_dtype(model.dtype, pick_device(device)))
    inputs = {"model": model.digest, "corpus": corpus.key}
    return [
        Recipe("activations", VERSION, {"site": site, **settings}, inputs) for site in config.sites
    ]


def extract(
    root: DataRoot,
    config: ActivationsConfig,
    *,
    model: ResolvedModel,
    corpus: Artifact,
    device: str = "auto",
    spread: Callable[[Deal], None] | None = None,
) -> dict[Site, Artifact]:
    """Record ``config.sites`` over the corpus; sites that are there already are not recomputed.

    Nor are the shards of a corpus that this one grew from: they are taken over as they are.

    spread: has the shards that are missing computed elsewhere, by `compute_shards`, and returns
    when all are there.

    Memory: the model, two shards of activations per site (on a GPU six), and some 40 bytes per
    document. Raises
    ``ConfigError`` for a layer, a part of a block, a token, a position or a device that is not
    there, or a folder that has changed since it was digested, ``DataError``
    where the model gives NaN or infinity, ``StorageError`` if the disk fills up.
    """
    sites = [Site.parse(site) for site in config.sites]
    model.check_sites(sites)
    asked = recipes(config, model=model, corpus=corpus, device=device)
    wanted = dict(zip(sites, asked, strict=True))

    def write(drafts: dict[Site, Draft]) -> None:
        for site, draft in drafts.items():
            before = earlier(root, wanted[site], corpus)
            if before is not None:
                for path in before[0].files("*-*.parquet"):
                    draft.adopt(before[0], path.name)
        _Extraction(config, model, corpus, drafts, device).run(spread)

    return root.make_all(wanted, write)


STAGE = Stage("activations", recipes, extract)


@dataclass(frozen=True)
class Share:
    """Some shards of an extraction, to be computed wherever the data root can be reached.

    corpus: its key. drafts: site -> folder of the artifact in the making.
    """

    corpus: str
    drafts: Mapping[str, str]
    shards: tuple[str, ...]


Deal = Callable[[int], list[Share]]
"""Deals the missing shards into n shares, or fewer."""


def compute_shards(
    root: DataRoot,
    config: ActivationsConfig,
    model: ResolvedModel,
    share: Share,
    *,
    device: str = "auto",
) -> None:
    """Write the shards of ``share`` into its drafts, for the extraction that holds their keys.

    A shard's bytes are the same wherever it is computed in the same arithmetic. Raises as
    `extract` does.
    """
    drafts = {Site.parse(site): Draft(Path(folder)) for site, folder in share.drafts.items()}
    scratch = next(iter(drafts.values())).scratch
    corpus = root.open("corpus", share.corpus)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="share-") as folder:
        work = _Extraction(config, model, corpus, drafts, device, Path(folder))
        work.compute(set(share.shards))


class _Extraction:
    """One pass over the corpus for the drafts of one or more sites."""

    def __init__(
        self,
        config: ActivationsConfig,
        model: ResolvedModel,
        corpus: Artifact,
        drafts: Mapping[Site, Draft],
        device: str,
        folder: Path | None = None,
    ) -> None:
        """folder: for the corpus' tokens; none: the scratch folder of the first draft."""
        self.config = config
        self.model = model
        self.corpus = corpus
        self.drafts = drafts
        self.device = pick_device(device)
        self.dtype = pick_dtype(model.dtype, self.device)
        folder = folder or next(iter(drafts.values())).scratch
        self.tokens = Tokens.read(corpus, config.skip_positions, folder)
        self.shards = layout.shards(corpus, self.tokens, config.shard_tokens, config.seed)

    def run(self, spread: Callable[[Deal], None] | None) -> None:
        """Have the shards that are missing, then the moments and the facts of each site."""
        missing = self._missing()
        if spread is not None and missing:
            spread(lambda shares: self._shares(missing, shares))
        self.compute({shard.name for shard in self.shards})
        for site, draft in self.drafts.items():
            self._finish(site, draft)

    def _missing(self) -> list[Shard]:
        return [s for s in self.shards if not all(d.has(s.name) for d in self.drafts.values())]

    def _shares(self, missing: Sequence[Shard], shares: int) -> list[Share]:
        names = [shard.name for shard in missing]
        drafts = {str(site): str(draft.path) for site, draft in self.drafts.items()}
        dealt = [tuple(names[first::shares]) for first in range(min(shares, len(names)))]
        return [Share(self.corpus.key, drafts, portion) for portion in dealt]

    def compute(self, names: Set[str]) -> None:
        """Compute those of the shards called so that are missing."""
        todo = [shard for shard in self._missing() if shard.name in names]
        total = sum(shard.rows for shard in self.shards if shard.name in names)
        done = total - sum(shard.rows for shard in todo)
        if todo:
            forward = Forward(self.model, self.tokens, list(self.drafts), self.device)
            if forward.padded:
                share = layout.padding(todo, self.tokens.lengths, layout.PADDED_TOKENS)
                log.info(
                    "%-12s computes up to %d tokens a pass, %.1f %% of them padding",
                    "activations", layout.PADDED_TOKENS, 100 * share,
                )  # fmt: skip
            writers = GPU_WRITERS if forward.padded or self.device != "cpu" else 1
            with (
                track("activations", total, "tokens", done) as advance,
                ThreadPoolExecutor(writers, "shard-writer") as writer,
            ):
                writing: deque[Future[None]] = deque()
                for shard in todo:
                    activations = forward.compute(shard, advance)
                    if len(writing) == writers:
                        writing.popleft().result()  # a full disk is heard of here
                    writing.append(writer.submit(self._write, shard, activations))
                while writing:
                    writing.popleft().result()

    def _write(self, shard: Shard, activations: Mapping[Site, Tensor]) -> None:
        self.model.check_unchanged()  # its weights are mapped, and read as they are needed
        source = self.tokens.source(shard.documents)
        for site, draft in self.drafts.items():
            if draft.has(shard.name):
                continue
            moments = shards.moments(shards.stored(activations[site], self.config.storage))
            noted = _noted(draft, shard)
            unfinished = noted.with_name(f"{noted.name}.unfinished")
            moments.save(unfinished)
            fsync(unfinished)
            unfinished.rename(noted)
            with draft.writing(shard.name) as path:
                shards.write(path, source, activations[site], self.config.storage)

    def _finish(self, site: Site, draft: Draft) -> None:
        for shard in self.shards:
            draft.rows[shard.name] = shard.rows
        moments = Moments.merge(
            self._moments(draft, s) for s in self.shards if s.name.startswith("train")
        )
        if not draft.has(MOMENTS):
            with draft.writing(MOMENTS) as path:
                moments.save(path)
        draft.facts.update(
            site=str(site),
            layer=site.layer,
            hook=site.hook,
            d_in=len(moments.mean),
            train_rows=moments.rows,
            test_rows=sum(s.rows for s in self.shards) - moments.rows,
            mean_squared_norm=float(moments.variance.sum()),
            model=self.model.name,
            model_digest=self.model.digest,
            dtype=dtype_name(self.dtype),
        )

    def _moments(self, draft: Draft, shard: Shard) -> Moments:
        """As noted when the shard was written, or, if it is from a damaged artifact, read anew."""
        noted = _noted(draft, shard)
        if noted.exists():
            return Moments.load(noted, shard.rows)
        return shards.moments(shards.ShardFile(draft.path / shard.name).activations())


def _noted(draft: Draft, shard: Shard) -> Path:
    return draft.scratch / f"{shard.name}.moments"
