"""Published runs of a small model for texts of one's own, of each kind that a run may be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from support.store_artifacts import plant
from support.texts import write_texts
from support.tiny_models import save_tiny

from deconstruct.activations import stage as activations
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.causes.subject import subject_of
from deconstruct.common.site import Site
from deconstruct.config import (
    ActivationsConfig,
    CorpusConfig,
    LatentsConfig,
    ModelConfig,
    ProbeConfig,
    RunConfig,
    SaeConfig,
)
from deconstruct.corpus import sources
from deconstruct.corpus import stage as corpus
from deconstruct.latents import stage as latents
from deconstruct.model.resolve import ResolvedModel, resolve
from deconstruct.probe import stage as probe
from deconstruct.sae import stage as sae
from deconstruct.sae.pretrained import find
from deconstruct.store import publish

SITE = "1.resid_post"
TURNS = "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}"
CHATS = [
    [
        {"role": "user", "content": f"who won the match {n}"},
        {"role": "assistant", "content": f"the team {n} won the cup and the prize"},
    ]
    for n in range(24)
]


class House:
    """A home with the runs that `publish` puts there, each under a name of its own."""

    def __init__(self, folder: Path) -> None:
        model = save_tiny("llama", folder / "model")
        (model / "chat_template.jinja").write_text(TURNS)
        self.home = folder / "home"
        self._root = DataRoot(self.home)
        self._config = ModelConfig(name=str(model), dtype="float32")
        self._model: ResolvedModel = resolve(self._root, self._config)
        self._texts = write_texts(folder / "texts.csv", longest=60)
        self._chats = folder / "chats.jsonl"
        rows = [{"text": chat, "label": "ab"[n % 2]} for n, chat in enumerate(CHATS)]
        self._chats.write_text("\n".join(map(json.dumps, rows)))

    def publish(
        self, name: str, *, read: dict[str, Any] | None = None,
        recorded: dict[str, Any] | None = None, trained: dict[str, Any] | None = None,
    ) -> str:  # fmt: skip
        """A run called ``name``: settings of corpus, activations and SAE beside the usual ones."""
        chats = "roles" in (read or {})
        source = str(self._chats if chats else self._texts)
        of_corpus = CorpusConfig.model_validate(
            {"source": source, "max_tokens": 24} | (read or {})
        )  # fmt: skip
        told = corpus.tokenise(
            self._root, of_corpus, source=sources.resolve(of_corpus), model=self._model
        )
        of_sae = self._settings(trained or {})
        places = (SITE, of_sae.output_site) if of_sae.output_site else (SITE,)
        of_rows = ActivationsConfig.model_validate(
            {"sites": places, "shard_tokens": 512} | (recorded or {})
        )
        made = activations.extract(
            self._root, of_rows, model=self._model, corpus=told, device="cpu"
        )
        rows = made[Site.parse(SITE)]
        dictionary = self._dictionary(of_sae, made, rows)
        fired = latents.encode(
            self._root, LatentsConfig(), sae=dictionary, activations=rows, corpus=told,
            device="cpu",
        )  # fmt: skip
        probed = probe.fit_probes(
            self._root, ProbeConfig(bootstrap=20), corpus=told, latents=fired, activations=rows
        )
        own = {"corpus": told, "activations": rows, "sae": dictionary, "latents": fired,
               "probe": probed}  # fmt: skip
        planted = plant(self.home)
        config = RunConfig(name=name, model=self._config, corpus=of_corpus)
        record = planted.record.model_copy(update={"config": config})
        return publish(self.home, record, planted.artifacts | own)

    def _settings(self, changes: dict[str, Any]) -> SaeConfig:
        """A pretrained one is that of an earlier run, whose name stands for its folder."""
        if "pretrained" in changes:
            folder = subject_of(self.home, changes["pretrained"]).sae.path
            return SaeConfig.model_validate({"pretrained": str(folder)})
        usual = {"d_sae": 64, "k": 4, "tokens": 2048, "batch_size": 128}
        return SaeConfig.model_validate(usual | changes)

    def _dictionary(
        self, config: SaeConfig, made: dict[Site, Artifact], rows: Artifact
    ) -> Artifact:
        if config.pretrained is not None:
            whole = RunConfig(
                model=self._config, sae=config, activations=ActivationsConfig(sites=(SITE,))
            )
            found = find(whole, self._model)
            return sae.train(self._root, config, activations=rows, dictionary=found, device="cpu")
        output = made[Site.parse(config.output_site)] if config.output_site else None
        return sae.train(self._root, config, activations=rows, output=output, device="cpu")

    def move_model(self) -> Path:
        """Takes the model away; `shutil.move` brings it back."""
        model = Path(self._config.name)
        return Path(shutil.move(model, model.with_name("elsewhere")))
