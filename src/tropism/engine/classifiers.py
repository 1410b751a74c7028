"""Sequence classifiers: loading, scoring and saving decoders and encoders with a classification head.

A decoder is read at the last token of each row by explicit lengths, an encoder by a full forward with a mask from
lengths: neither padding, nor the side it is on, nor a pad id that stands in a text changes a score. What is saved is a
plain Hugging Face folder. In plain transformers a decoder's head reads the last token that is not the pad token, so the
pad token of such a folder is never one that a text may end with: with pad = EOS it would read the token before the end.

Left out: encoder-decoders (T5, BART), models that see images too, heads on several tokens (process rewards).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)
from transformers.utils import logging

from tropism.engine.adapters import base_of, merged_copy
from tropism.engine.attention import check_attention
from tropism.engine.batch import TokenBatch
from tropism.engine.chat import turn_ends
from tropism.engine.models import (
    _check_tokenizer,
    _load,
    _own_memory,
    _source,
    context_length,
    eos_ids,
    load_policy,
    load_tokenizer,
)
from tropism.engine.scoring import hidden_states
from tropism.errors import ModelError
from tropism.runtime.seeding import derive

PAD = "<|pad|>"
_FIX = "give a folder or hub name of a decoder, an encoder or a sequence classifier, with tokenizer and *.safetensors"


@dataclass(frozen=True)
class Classifier:
    """A model of the class that ``AutoModelForSequenceClassification`` takes, with its own tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    fresh: tuple[str, ...] = field(default=())
    """Weights that the source did not have: drawn anew, from the seed."""

    @property
    def labels(self) -> int:
        """Outputs of the head."""
        return int(self.model.config.num_labels)

    @property
    def is_decoder(self) -> bool:
        """Whether the head reads the last token (as all causal models' do) and not the whole row."""
        return hasattr(self.model, "score")

    @cached_property
    def eos(self) -> frozenset[int]:
        """Ids that end a text, a chat template's end of turn among them; empty for an encoder."""
        if not self.is_decoder:
            return frozenset()
        return eos_ids(self.model, self.tokenizer) | turn_ends(self.tokenizer)

    @property
    def context(self) -> int:
        """The most tokens of a row."""
        most = context_length(self.model)
        if self.is_decoder:
            return most
        if (first := self._first_position) is not None:
            most -= first
        return min(most, int(self.tokenizer.model_max_length))

    @property
    def head(self) -> frozenset[str]:
        """Names of the parameters that are not the trunk's, and of all fresh ones (BERT's pooler)."""
        trunk = f"{self.model.base_model_prefix}."
        own = {name for name, _ in self.model.named_parameters() if not name.startswith(trunk)}
        return frozenset(own | set(self.fresh))

    @cached_property
    def _typed(self) -> bool:
        """Whether the tokenizer tells the two sentences of a pair apart by token types."""
        return any(self.tokenizer("a", "b").get("token_type_ids", ()))

    @cached_property
    def _first_position(self) -> int | None:
        """RoBERTa's kin count positions from pad id + 1, over tokens that are not pads; None for all others."""
        embeddings = getattr(self.model.base_model, "embeddings", None)
        counts = hasattr(embeddings, "create_position_ids_from_input_ids")
        return int(self.model.config.pad_token_id) + 1 if counts else None

    def scores(self, batch: TokenBatch) -> Tensor:
        """Head outputs fp32 ``[B, labels]``, differentiable, under the caller's autocast (the head itself in fp32).

        For an encoder, a row's "prompt" is what comes before the second sentence's first token, special tokens
        included, and its "completion" the rest.
        """
        if not self.is_decoder:
            positions = torch.arange(batch.ids.shape[1])[None, :].expand_as(batch.ids)
            return self._encoder_scores(batch, positions, positions < batch.lengths[:, None])
        last = hidden_states(self.model, batch, batch.packed.starts[1:] - 1)
        with torch.autocast(last.device.type, enabled=False):
            head: nn.Module = self.model.score
            return head(last.to(next(head.parameters()).dtype)).float()

    def _encoder_scores(self, batch: TokenBatch, positions: Tensor, mask: Tensor) -> Tensor:
        options: dict[str, Tensor] = {"attention_mask": mask.long()}
        if self._typed:
            options["token_type_ids"] = (mask & (positions >= batch.prompt_lengths[:, None])).long()
        if (first := self._first_position) is not None:
            options["position_ids"] = positions + first
        last = [m for n, m in self.model.named_modules() if f"{n}.weight" in self.head and isinstance(m, nn.Linear)][-1]
        handle = last.register_forward_hook(_in_fp32)  # scores rounded to 8 bits would tie
        try:
            pad = self.model.config.pad_token_id or 0
            return self.model(input_ids=torch.where(mask, batch.ids, pad), **options).logits.float()
        finally:
            handle.remove()


def load_classifier(
    path_or_name: str | Path,
    labels: int | None = None,
    *,
    new_head: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Classifier:
    """A classifier in eval mode from a local folder or a hub name: a finished one, or any decoder or encoder.

    ``labels``: outputs of the head; None: as many as the source has (1 where it has no head). Head weights that the
    source lacks are drawn from ``seed`` and named in ``fresh``; with ``new_head`` a head of another size is replaced in
    the same way. Parameters have ``dtype`` and are trainable; adapters of a policy are merged first. Raises ModelError
    naming the source and the fix: nothing there, a family without a classifier, missing trunk weights, a model whose
    rows depend on their company.
    """
    folder = Path(path_or_name).expanduser()
    adapted = base_of(folder) is not None
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "ignore_mismatched_sizes": True}
    if adapted:
        policy, tokenizer = load_policy(folder, dtype)
        whole = merged_copy(policy)
        source, config, ends = str(folder), whole.config, whole.generation_config
        options["state_dict"] = whole.state_dict()
    else:
        source = _source(path_or_name)
        config, ends = _loaded(AutoConfig, source, "config"), _generation(source)
    _check_family(source, config)
    finished = any("ForSequenceClassification" in str(name) for name in config.architectures or [])
    before = int(config.num_labels) if finished else None
    config.num_labels = labels = labels or before or 1
    if before not in (None, labels) and not new_head:
        raise ModelError(
            f"{source} classifies into {before} labels, not {labels}", f"load it with its own {before} labels"
        )
    tokenizer = tokenizer if adapted else load_tokenizer(source)
    loader: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    with torch.random.fork_rng(devices=[]):  # from_pretrained draws what is missing from the global generator
        torch.manual_seed(derive(seed, "classifier-head"))
        given = None if adapted else source
        model, info = _loaded(loader, given, "weights", config=config, output_loading_info=True, **options)
        _keep_ends(model, ends)
        made = Classifier(model.eval(), tokenizer, _fresh(source, model, info))
        if made.is_decoder:
            _own_pad(source, made)
    _own_memory(model)
    _check_rows(source, made)
    return made


def _loaded(loader: Any, source: Any, what: str, **options: Any) -> Any:
    shown = logging.get_verbosity()
    logging.set_verbosity_error()  # transformers' own report of missing weights: ours is ``fresh``
    try:
        return _load(loader, source, what, **options)
    except ModelError as error:
        raise ModelError(error.problem, _FIX) from error
    finally:
        logging.set_verbosity(shown)


def _generation(source: str) -> GenerationConfig | None:
    """A policy's generation config, or None where there is none."""
    try:
        return GenerationConfig.from_pretrained(source)
    except OSError:
        return None


def _check_family(source: str, config: Any) -> None:
    kind = str(config.model_type)
    if config.is_encoder_decoder or kind not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        why = "an encoder-decoder" if config.is_encoder_decoder else "a family that has no sequence classifier"
        raise ModelError(
            f"{source} is a {kind}: {why}", "choose a decoder (Llama, Qwen, Gemma, …) or an encoder (BERT, RoBERTa, …)"
        )
    if config.get_text_config() is not config:
        raise ModelError(
            f"{source} is a {kind}, which takes more than text", "extract its language model: a folder of text alone"
        )


def _fresh(source: str, model: PreTrainedModel, info: dict[str, Any]) -> tuple[str, ...]:
    """Names of the head's weights that were drawn; ModelError if any of the trunk's would have to be."""
    trunk = f"{model.base_model_prefix}."
    absent = {str(k) for k in info.get("missing_keys", ())}
    absent |= {str(k[0] if isinstance(k, tuple) else k) for k in info.get("mismatched_keys", ())}
    # BERT's pooler stands inside the trunk, but only classifiers have it
    lost = sorted(name for name in absent if name.startswith(trunk) and ".pooler." not in name)
    if lost:
        raise ModelError(
            f"the weights of {source} do not fill the model ({', '.join(lost[:3])}, …)",
            "point to a complete checkpoint of the architecture that config.json names",
        )
    return tuple(sorted(absent))


def _keep_ends(model: PreTrainedModel, ends: GenerationConfig | None) -> None:
    """A policy's further EOS ids stand in its generation config, which a classifier's folder has not."""
    found: set[int] = set()
    for value in (model.config.eos_token_id, None if ends is None else ends.eos_token_id):
        found.update(value if isinstance(value, list) else [] if value is None else [value])
    if found:
        model.config.eos_token_id = sorted(found) if len(found) > 1 else min(found)


def _own_pad(source: str, made: Classifier) -> None:
    """Give a decoder a pad token that no text ends with: one that is there for it, else a new one."""
    model, tokenizer = made.model, made.tokenizer
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in made.eos:
        rows = model.get_input_embeddings().weight.shape[0]
        meant = [
            token
            for token in tokenizer.all_special_tokens
            if "pad" in token.lower() and tokenizer.convert_tokens_to_ids(token) not in made.eos
        ]
        tokenizer.add_special_tokens({"pad_token": meant[0] if meant else PAD})
        if len(tokenizer) > rows:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    _check_tokenizer(source, model, tokenizer)
    model.config.pad_token_id = tokenizer.pad_token_id
    # torch keeps the gradient of this row at 0: with pad = EOS the end's embedding would not learn
    embeddings = model.get_input_embeddings()
    if getattr(embeddings, "padding_idx", None) is not None:
        embeddings.padding_idx = tokenizer.pad_token_id
    tokenizer.padding_side = "right"  # absolute positions (GPT-2) count from the left


@torch.no_grad()
def _check_rows(source: str, made: Classifier) -> None:
    """Refuse a model whose padded rows score otherwise than each row alone in the model's own forward."""
    if made.is_decoder:
        check_attention(made.model)
    vocabulary, pad = made.model.get_input_embeddings().weight.shape[0], made.tokenizer.pad_token_id
    ids = [t if t != pad else t + 1 for t in ((i * 7 + 3) % (vocabulary - 1) for i in range(8))]
    rows = [ids, ids[3:]]
    ours = made.scores(TokenBatch.of([r[:2] for r in rows], [r[2:] for r in rows]))
    alone = []
    for row in rows:
        options = {"token_type_ids": torch.tensor([[0, 0] + [1] * (len(row) - 2)])} if made._typed else {}
        if made.is_decoder:
            options = {}
        given = torch.tensor([row])
        alone.append(made.model(input_ids=given, attention_mask=torch.ones_like(given), **options).logits[0].float())
    own = torch.stack(alone)
    worst = float((own - ours).abs().max())
    limit = 1e-4 if made.model.dtype == torch.float32 else 0.1
    if not worst <= limit * max(1.0, float(own.abs().max())):
        raise ModelError(
            f"{source} ({type(made.model).__name__}): scores of padded rows differ by {worst:.3g} from those of each"
            " row alone",
            "this model pools its rows in a way the engine does not know; use another model",
        )


def _in_fp32(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """A head's last layer again, without autocast."""
    assert isinstance(module, nn.Linear)
    with torch.autocast(args[0].device.type, enabled=False):
        forward: Callable[[Tensor], Tensor] = module.forward
        return forward(args[0].to(module.weight.dtype))
