"""A dictionary that others trained, in the place of a training: found, checked and taken over.

``sae.pretrained`` names a folder, a file or a place on the hub; `deconstruct.sae.formats` reads it.
All that can be wrong with it is said before the model runs: `find` reads the weights once, compares
what its metadata say with model and sites, and its widths with the model's.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from deconstruct.artifacts import Draft, sha256_of
from deconstruct.common.errors import ConfigError
from deconstruct.common.paths import absolute
from deconstruct.common.site import HOOKS, Site
from deconstruct.config import RunConfig, SaeConfig
from deconstruct.corpus.hub import PREFIX
from deconstruct.model.folder import weights_of
from deconstruct.model.resolve import ResolvedModel
from deconstruct.sae.autoencoder import SparseAutoencoder
from deconstruct.sae.files import (
    CONFIG,
    WEIGHTS,
    WHITENING,
    config_of,
    save_weights,
    tensor_lens_name,
)
from deconstruct.sae.formats import hub
from deconstruct.sae.formats.base import SMALL, Asked, Dictionary, Source
from deconstruct.sae.formats.registry import FORMATS, format_of
from deconstruct.sae.formats.sites import GAIN, RAW, place_of

log = logging.getLogger("deconstruct.stages")

LAYER_NORMED = frozenset("gpt2 gpt_neox opt gptj phi bloom falcon gpt_bigcode codegen".split())
"""Families whose MLP reads a LayerNorm's output; TransformerLens' name for it has its weight."""
GAINS = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), ("post_attention_layernorm", 0.0)),
    **dict.fromkeys(("gemma2", "gemma3", "gemma3_text"), ("pre_feedforward_layernorm", 1.0)),
    "gemma": ("post_attention_layernorm", 1.0),
}
"""Family -> the norm before its MLP, and what is added to its weight to give what it multiplies."""
POST_NORMED = frozenset("gemma2 gemma3 gemma3_text olmo2 glm4".split())
"""Families that normalise what attention and MLP give before it is added to the stream."""
FAMILIES = (
    (r"gpt2|gpt-2", ("gpt2",)),
    (r"pythia|gpt-neox", ("gpt_neox",)),
    (r"gemma-2-", ("gemma2",)),
    (r"gemma-3-", ("gemma3_text", "gemma3")),
    (r"llama", ("llama",)),
    (r"qwen3", ("qwen3", "qwen3_moe", "qwen3_5", "qwen3_5_text", "qwen3_next")),
    (r"qwen2", ("qwen2",)),
    (r"mistral", ("mistral",)),
)
"""What a model's name says of its family (``model_type``)."""


@dataclass(frozen=True)
class Pretrained:
    """A dictionary whose files are on this machine, all checked.

    name: as the user wrote it. format: see `FORMATS`. files: by name; ``digest`` is a SHA-256 over
    names and contents, and ``gain`` what the encoder is divided by beside (see `_gain_of`), if
    anything. ``model``: the one it was made for, as far as that is told.
    """

    name: str
    format: str
    digest: str
    asked: Asked
    source: Source = field(compare=False, repr=False)
    model: str | None = None
    gain: tuple[float, ...] | None = field(default=None, repr=False)
    architecture: str = ""
    d_in: int = 0
    d_sae: int = 0
    k: int | None = None

    def autoencoder(self) -> SparseAutoencoder:
        """Read the weights."""
        read = FORMATS[self.format].read(self.source, self.asked)
        return read.sae if self.gain is None else _divided(read.sae, torch.tensor(self.gain))

    def settings(self) -> dict[str, Any]:
        """All beside the files' digest that decides the artifact, as JSON types."""
        found: dict[str, Any] = {
            "pretrained_format": self.format,
            "site": str(self.asked.site),
            "architecture": self.architecture,
            "k": self.k,
            "model": self.model,
        }
        if self.asked.output is not None:
            found["output_site"] = str(self.asked.output)
        if self.gain is not None:
            found["gain"] = hashlib.sha256(json.dumps(self.gain).encode()).hexdigest()
        return found

    def as_if_trained(self, config: RunConfig) -> RunConfig:
        """The configuration with this one's sizes, and next to no training: for estimates."""
        sizes = {"d_sae": self.d_sae, "k": self.k or config.sae.k, "tokens": 0}
        return config.model_copy(update={"sae": config.sae.model_copy(update=sizes)})

    def write(self, draft: Draft) -> None:
        """Write what the stage sae leaves, but for the log of a training."""
        sae, site, output = self.autoencoder(), self.asked.site, self.asked.output
        metadata = {"hook_name": tensor_lens_name(site.layer, site.hook), "site": str(site)}
        if self.model is not None:
            metadata["model_name"] = self.model
        if output is not None:
            metadata["hook_name_out"] = tensor_lens_name(output.layer, output.hook)
            draft.facts["output_site"] = str(output)
        with draft.writing(WEIGHTS) as path:
            save_weights(sae, path)
        draft.write_json(CONFIG, config_of(sae, metadata))
        draft.facts.update(
            architecture=sae.architecture,
            d_in=sae.d_in,
            d_sae=sae.d_sae,
            k=sae.k,
            site=str(site),
            source=self.name,
            format=self.format,
            digest=self.digest,
        )


def find(config: RunConfig, model: ResolvedModel) -> Pretrained | None:
    """The dictionary that ``config`` names, checked; None where it names none.

    Files are digested and weights read, once per process until they change. Raises ``ConfigError``
    for one that can't be read or does not fit model, sites or settings, ``SourceUnreachable`` for
    one that the hub does not serve.
    """
    sae = config.sae
    if sae.pretrained is None:
        return None
    output = None if sae.output_site is None else Site.parse(sae.output_site)
    [site] = map(Site.parse, config.read_sites)
    asked = Asked(site, output)
    source, name, digest = _digested(sae, asked)
    known = (digest, sae.pretrained, name, asked, model.digest)
    if known not in _checked:
        _checked[known] = _check(sae, source, name, digest, asked, model)
    return _checked[known]


_checked: dict[tuple[Any, ...], Pretrained] = {}


def _digested(config: SaeConfig, asked: Asked) -> tuple[Source, str, str]:
    """Its files, fetched if need be; their format, and a digest of names and contents."""
    said = str(config.pretrained)
    remote = said.startswith(PREFIX)
    source, fetch = _remote(said) if remote else (_local(said), None)
    format_, wanted = format_of(source, asked, config.pretrained_format)
    if fetch is not None:
        source.folder = fetch([name for name in wanted if name in source.names])
    listing = {name: sha256_of(source.path(name)) for name in wanted}
    text = json.dumps(listing, sort_keys=True)
    return source, format_.name, hashlib.sha256(text.encode()).hexdigest()


def _local(said: str) -> Source:
    """The files of a folder and of those in it; of a file, it and what describes it."""
    path = absolute(said)
    if path.is_file():
        beside = (*SMALL, WHITENING)
        names = {path.name, *(name for name in beside if (path.parent / name).is_file())}
        return Source(said, path.parent, frozenset(names), _elsewhere(said))
    hub.check_place(said)
    found = (p for pattern in ("*", "*/*") for p in path.glob(pattern) if p.is_file())
    names = {p.relative_to(path).as_posix() for p in found}
    return Source(said, path, frozenset(names), _elsewhere(said))


def _remote(said: str) -> tuple[Source, Callable[[list[str]], Path]]:
    """The files of a folder on the hub, of which those that describe it are fetched, and what
    fetches others of them."""
    place = hub.parse(said)
    repository = _repository(said, place)
    base = place.path
    if base in repository.names:
        base, _, file = base.rpartition("/")
        keep = {file, *SMALL, WHITENING}
    else:
        keep = None
    prefix = f"{base}/" if base else ""
    names = {name.removeprefix(prefix) for name in repository.names if name.startswith(prefix)}
    names = {n for n in names if n.count("/") < 2 and (keep is None or n in keep)}
    if not names:
        raise ConfigError(
            f"sae.pretrained = {said!r}: there is no {place.path!r} in revision "
            f"{repository.commit[:12]} of {place.repository}; name a folder or file that is there"
        )

    def fetch(wanted: list[str]) -> Path:
        return repository.fetch([prefix + name for name in wanted]) / base

    small = sorted(names & set(SMALL))
    folder = fetch(small) if small else Path(base)
    return Source(said, folder, frozenset(names), _elsewhere(said)), fetch


@lru_cache
def _repository(said: str, place: hub.Place) -> hub.Repository:
    """Asked for once in a process: so all of a run sees one commit."""
    return hub.Repository(said, place)


def _elsewhere(said: str) -> Callable[[str], Path]:
    def fetch(uri: str) -> Path:
        place = hub.parse_uri(said, uri)
        return _repository(said, place).fetch([place.path]) / place.path

    return fetch


def _check(
    config: SaeConfig, source: Source, format_: str, digest: str, asked: Asked, model: ResolvedModel
) -> Pretrained:
    """Read it, and compare all that is known of it with what the run asks."""
    read = FORMATS[format_].read(source, asked)
    sae = read.sae
    _check_model(source, read.told.model, model)
    _check_role(source, read, asked)
    but = _check_place(source, read.told.reads, read.told.layer, asked.site, model)
    if asked.output is not None:
        _check_place(source, read.told.writes, read.told.layer, asked.output, model)
    for width, what in ((sae.d_in, "reads"), (sae.d_out, "writes")):
        if width != model.d_model:
            raise source.fault(
                f"it {what} activations of width {width}, and {model.short_name} has width "
                f"{model.d_model}; name a dictionary of this model"
            )
    found = {
        "architecture": sae.architecture,
        "d_sae": sae.d_sae,
        "k": sae.k,
        "skip_connection": "W_skip" in sae.weights(),
    }
    for name, value in found.items():
        told = getattr(config, name)
        if value is not None and told not in (SaeConfig.model_fields[name].default, value):
            raise source.fault(
                f"it has {name} = {value}, and sae.{name} = {told} is set; leave that out, as "
                "nothing is trained"
            )
    gain = None
    if but == GAIN and model.family not in LAYER_NORMED:
        gain = _gain_of(source, model, asked.site.layer)
    return Pretrained(
        source.said, format_, digest, asked, source, read.told.model, gain,
        sae.architecture, sae.d_in, sae.d_sae, sae.k,
    )  # fmt: skip


def _check_model(source: Source, told: str | None, model: ResolvedModel) -> None:
    """Raise ``ConfigError`` if it was made for another model, as far as names tell. A folder may
    have any name: its family is compared, and beyond that a warning says what is not known."""
    if told is None or _bare(told) == _bare(model.short_name):
        return
    families = next((f for sign, f in FAMILIES if re.search(sign, _bare(told))), None)
    if model.own and (families is None or model.family in families):
        log.warning(
            "the dictionary was made for %s; whether the model in %s is that, its name does not "
            "say", told, model.name,
        )  # fmt: skip
        return
    raise source.fault(
        f"it was made for {told!r}, and model.name = {model.name!r} is another model; name that "
        "one, or a dictionary of this one"
    )


def _bare(name: str) -> str:
    """A model's name without its owner, and as the peers shorten it."""
    last = name.rstrip("/").split("/")[-1].lower()
    return last.removeprefix("meta-").removesuffix("-pt").removesuffix("-hf").replace(
        "gpt2-small", "gpt2"
    )  # fmt: skip


def _check_role(source: Source, read: Dictionary, asked: Asked) -> None:
    """Raise ``ConfigError`` unless it is what the run takes it for, transcoder or autoencoder."""
    if read.sae.transcoder and asked.output is None:
        place = place_of(read.told.writes) if read.told.writes else None
        site = str(place.site) if place else f"{asked.site.layer}.mlp_out"
        raise source.fault(
            f"it is a transcoder; set sae.output_site = {site!r}, or what it writes, and name that "
            "in activations.sites too"
        )
    if asked.output is not None and not read.sae.transcoder:
        raise source.fault(
            f"it is an autoencoder, and sae.output_site = {str(asked.output)!r} is for "
            "transcoders; leave that out"
        )


def _check_place(
    source: Source, hook: str | None, layer: int | None, site: Site, model: ResolvedModel
) -> str:
    """In what the hook that it was made for differs from the run's site (`Place.but`). Raises
    ``ConfigError`` if it is another."""
    if hook is None:
        if layer is not None and layer != site.layer:
            raise source.fault(
                f"it is of layer {layer}, and activations.sites names {str(site)!r}; set them alike"
            )
        return ""
    place = place_of(hook)
    if place is None:
        raise source.fault(
            f"it was made for the hook {hook!r}, which is none of our sites ({', '.join(HOOKS)})"
        )
    if place.site != site:
        raise source.fault(
            f"it was made for {hook!r}, which is {str(place.site)!r}, and activations.sites names "
            f"{str(site)!r}; set them alike"
        )
    if place.but == RAW and model.family in POST_NORMED:
        raise source.fault(
            f"it was made for {hook!r}, which a {model.family} model normalises before adding it; "
            f"our {site.hook} is what comes after"
        )
    return place.but


def _gain_of(source: Source, model: ResolvedModel, layer: int) -> tuple[float, ...] | None:
    """What the norm before the MLP multiplies with, [d_model]: an encoder that was made for what
    comes before that is divided by it, and reads our ``mlp_in``."""
    if not model.unpacked:  # an embedded one, which is looked at again once its weights are there
        return None
    if model.family not in GAINS:
        raise source.fault(
            "it reads what an RMSNorm gives before its weight; how that is to be folded is known "
            f"for {', '.join(sorted(GAINS))}, and this is a {model.family or 'nameless'} model"
        )
    norm, added = GAINS[model.family]
    ending = f"layers.{layer}.{norm}.weight"
    for name in weights_of(model.folder):
        with safe_open(model.folder / name, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                if key.endswith(ending):
                    gain = file.get_tensor(key).float() + added
                    if not (gain.abs() > 0).all() or not torch.isfinite(gain).all():
                        raise source.fault(f"{key} of {model.short_name} has zeros: no inverse")
                    return tuple(gain.tolist())
    raise source.fault(f"{model.short_name} has no {ending}, which its encoder is divided by")


def _divided(sae: SparseAutoencoder, gain: torch.Tensor) -> SparseAutoencoder:
    """The same of an input that has been multiplied with ``gain`` [d_in]."""
    w = sae.weights()
    w["W_enc"] = w["W_enc"].double() / gain.double()[:, None]
    if "W_skip" in w:
        w["W_skip"] = w["W_skip"].double() / gain.double()
    return SparseAutoencoder(sae.architecture, w, sae.k, sae.transcoder)
