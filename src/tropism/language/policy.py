"""The language policy of PPO: a causal LM with a value head, on the policy's own trunk or on one of its own.

A policy on disk is a plain Hugging Face folder. Left out: the critic, which values one reward under one policy and is
learned anew in every round.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tropism.engine import chat
from tropism.engine.adapters import LoraSettings, base_parameters, copy_sharing_frozen
from tropism.engine.batch import TokenBatch
from tropism.engine.cards import Card
from tropism.engine.generation import check_sampling
from tropism.engine.models import eos_ids, load_policy, save_policy
from tropism.engine.scoring import by_row, check_head, predicting_states, scores_from
from tropism.engine.working import Working
from tropism.language.sft import Example
from tropism.runtime.precision import FP32, Precision

ValueTrunk = Literal["shared", "separate"]


@dataclass(frozen=True)
class Evaluated:
    """What one forward of the actor-critic yields for completion tokens, each ``[B, C]`` (0 where padded)."""

    logprobs: Tensor
    entropy: Tensor
    values: Tensor


class ActorCritic(nn.Module):
    """π_θ and V_φ. With ``value_trunk="shared"`` V reads the policy's own hidden states.

    Its parameters are the masters; forwards run in the precision of :meth:`run_in`, fp32 until then.
    """

    def __init__(self, lm: PreTrainedModel, value_trunk: ValueTrunk = "separate") -> None:
        super().__init__()
        self.lm: PreTrainedModel = lm
        self.value_lm: PreTrainedModel | None = copy_sharing_frozen(lm) if value_trunk == "separate" else None
        self.value_head = nn.Linear(lm.config.get_text_config().hidden_size, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self.run_in(FP32)

    def run_in(self, precision: Precision) -> None:
        """Make ready for forwards in ``precision``."""
        self.working = Working(self.lm, precision)
        self.value_working = self.working if self.value_lm is None else Working(self.value_lm, precision)

    def refresh(self) -> None:
        """Take over changed parameters: call it after every optimiser step."""
        self.working.refresh()
        if self.value_working is not self.working:
            self.value_working.refresh()

    def evaluate(self, batch: TokenBatch, *, temperature: float = 1.0, detach_value_trunk: bool = False) -> Evaluated:
        """Log-probabilities, entropies, and V of the state before each completion token.

        ``detach_value_trunk``: critic warm-up, when the value loss must not move the policy through a shared trunk.
        """
        lm = self.working.model
        with self.working.running():
            states = predicting_states(lm, batch)
            scores = scores_from(lm, batch, states, temperature=temperature)
            if self.value_lm is not None:
                states = predicting_states(self.value_working.model, batch)
        states = states.detach() if detach_value_trunk else states
        values = by_row(self.value_head(states.float()).squeeze(-1), batch)
        return Evaluated(scores.logprobs, scores.entropy, values)

    def values(self, batch: TokenBatch) -> Tensor:
        """V alone, ``[B, C]``."""
        with self.value_working.running():
            states = predicting_states(self.value_working.model, batch)
        return by_row(self.value_head(states.float()).squeeze(-1), batch)


@dataclass(frozen=True)
class LanguagePolicy:
    """A loaded policy: model in eval mode, tokenizer, end-of-sequence ids."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    eos: frozenset[int]
    prompt_limit: int | None = None
    """Prompts of more tokens lose their left end (a BOS stays): what a job that cuts prompts sets, and counts."""

    @classmethod
    def load(cls, folder: str | Path) -> LanguagePolicy:
        """From a Hugging Face folder or name; ModelError where the engine would compute it wrongly."""
        model, tokenizer = load_policy(folder)
        check_head(model)
        check_sampling(model)
        return cls(model.eval(), tokenizer, eos_ids(model, tokenizer))._stopping()

    def with_chat(self, mode: chat.ChatMode | None, template: str | None = None) -> LanguagePolicy:
        """The policy with another chat mode (None: the tokenizer's) or template, both of which it will be saved with;
        what the template ends a turn with is an end of sequence."""
        chat.set_chat(self.tokenizer, mode or chat.chat_mode(self.tokenizer), template)
        return replace(self, eos=eos_ids(self.model, self.tokenizer))._stopping()

    def _stopping(self) -> LanguagePolicy:
        """With the end of the template's turns among the EOS ids, in the generation config too: plain transformers
        then stops where this policy does."""
        ends = chat.turn_ends(self.tokenizer) - self.eos
        if not ends:
            return self
        known = sorted(self.eos | ends)
        if self.model.generation_config is not None:
            self.model.generation_config.eos_token_id = known
        return replace(self, eos=frozenset(known))

    def save(
        self, folder: Path, about: Mapping[str, Any], card: Card | None = None, *, adapters: LoraSettings | None = None
    ) -> None:
        """Write a Hugging Face folder, ``about`` (tropism.json) and a model ``card`` (README.md) beside it.

        Adapters are merged, unless ``adapters.save`` says otherwise. Nothing may differ between equal runs (no times).
        """
        how = adapters.save if adapters is not None else "merged"
        save_policy(self.model, self.tokenizer, folder, about, card, adapters=how)

    def encode_prompt(self, prompt: str) -> list[int]:
        """Token ids of a prompt, with the tokenizer's own BOS rule; never empty where there is a BOS or EOS to start
        with."""
        ids = self.tokenizer(prompt, add_special_tokens=True)["input_ids"]
        while ids and ids[-1] in self.eos:  # some tokenizers end every text; a prompt is not ended
            ids = ids[:-1]
        if not ids:
            start = self.tokenizer.bos_token_id
            ids = [start if start is not None else min(self.eos)]
        return list(ids)

    def encode_task(self, payload: Mapping[str, Any]) -> list[int]:
        """Token ids of a task's prompt: its ``messages`` through the chat template (see ``engine/chat.py`` for when),
        else its ``prompt`` as :meth:`encode_prompt` does."""
        messages = chat.conversation(self.tokenizer, payload)
        if messages is None:
            ids = self.encode_prompt(str(payload["prompt"]))
        else:
            ids = chat.prompt_ids(self.tokenizer, messages)
        if self.prompt_limit is None or len(ids) <= self.prompt_limit:
            return ids
        first = ids[:1] if ids[0] == self.tokenizer.bos_token_id else []
        return first + ids[len(ids) - self.prompt_limit + len(first) :]

    def encode_completion(self, text: str, ended: bool = True, payload: Mapping[str, Any] | None = None) -> list[int]:
        """Token ids of a completion given as text: no BOS; one EOS (the tokenizer's) if it is ``ended``.

        With the ``payload`` of a task that goes through the chat template: what the template writes behind the prompt,
        up to the first EOS.
        """
        messages = None if payload is None else chat.conversation(self.tokenizer, payload)
        if messages is not None:
            return chat.completion_ids(self.tokenizer, messages, text, ended, self.eos)
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        end = self.tokenizer.eos_token_id
        return [*ids, end if end is not None else min(self.eos)] if ended else ids

    def example(self, prompt: str | Mapping[str, Any], completion: str) -> Example:
        """A demonstration for SFT, encoded by the rule by which the policy is sampled: only the answer is trained.

        ``prompt`` is a text or a task's payload (with ``messages`` for a chat).
        """
        payload = {"prompt": prompt} if isinstance(prompt, str) else prompt
        if chat.conversation(self.tokenizer, payload) is None:
            return Example.of(str(payload["prompt"]), completion)
        asked, answered = self.pair(payload, completion)
        return Example(((tuple(asked), False), (tuple(answered), True)))

    def pair(self, prompt: str | Mapping[str, Any], completion: str) -> tuple[list[int], list[int]]:
        """Token ids of a demonstration's prompt (a text or a task's payload) and of its answer."""
        payload = {"prompt": prompt} if isinstance(prompt, str) else prompt
        return self.encode_task(payload), self.encode_completion(completion, payload=payload)

    def decode(self, tokens: list[int]) -> str:
        """Text of completion tokens, without special tokens."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True)


def copy_of(model: PreTrainedModel) -> PreTrainedModel:
    """A frozen copy of a model in memory (trap: a reference is never re-read from its path)."""
    reference = copy.deepcopy(model).eval()
    for parameter in reference.parameters():
        parameter.requires_grad_(False)
    return reference


@torch.no_grad()
def same_weights(a: nn.Module, b: nn.Module) -> bool:
    """Whether two models have equal weights, bit for bit; adapters that add nothing are none."""
    mine, theirs = base_parameters(a), base_parameters(b)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
