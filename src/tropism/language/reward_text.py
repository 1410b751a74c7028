"""What a reward model reads of a completion: the sampled ids where it shares the policy's tokenizer, else text.

Three forms. ``turns``: the policy's own way, prompt and completion encoded one after the other, the boundary between
them kept, one EOS behind a completion that ended. ``whole``: the conversation rendered and encoded in one piece, as
plain transformers users do; for decoders that were trained elsewhere. ``pair``: the two sentences of an encoder. A
completion that a length limit cut shows no end in the first two; an encoder's closing separator is no such sign.

Rows that are too long lose the left end of the prompt first (a BOS stays), then the completion's right; they are
counted.

Left out: several turns judged at once (only the last answer is), images, tools.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tropism.engine import chat
from tropism.engine.batch import TokenBatch, by_tokens
from tropism.engine.classifiers import Classifier
from tropism.engine.generation import Generation
from tropism.errors import ModelError
from tropism.feedback.records import Candidate, Task
from tropism.language.policy import LanguagePolicy

Form = Literal["turns", "whole", "pair"]


@dataclass(frozen=True)
class Answered:
    """A task's payload and one completion of it, as text and, where a policy sampled it, as that policy's ids."""

    payload: Mapping[str, Any]
    text: str
    ended: bool
    """False: a length limit cut it, so that there is no end to show."""
    prompt: Sequence[int] | None = None
    completion: Sequence[int] | None = None

    @classmethod
    def of(cls, task: Task, candidate: Candidate) -> Answered:
        """A candidate, with its ids if it has them (they are empty for a text that came from elsewhere)."""
        content = candidate.content
        ids = content.get("tokens") or None
        return cls(task.payload, str(content["text"]), content.get("stop") != "length", None, ids)

    @classmethod
    def sampled(cls, tasks: Sequence[Task], generation: Generation, texts: Sequence[str]) -> list[Answered]:
        """The completions of a rollout, with the very ids of prompt and completion."""
        ids = zip(generation.prompts, generation.completions, generation.stops, strict=True)
        return [
            cls(task.payload, text, stop != "length", prompt, completion)
            for task, text, (prompt, completion, stop) in zip(tasks, texts, ids, strict=True)
        ]


@dataclass
class Encoded:
    """Token ids of N (prompt, completion) pairs; ``cut`` counts those that lost something to fit the context."""

    prompts: list[list[int]] = field(default_factory=list)
    completions: list[list[int]] = field(default_factory=list)
    cut: int = 0
    start: int | None = None
    """The token that begins every text (BOS), which stays where a prompt is cut."""

    def add(self, prompt: Sequence[int], completion: Sequence[int], context: int) -> None:
        """Add a row, shortened to ``context`` tokens: the prompt's left end first (one token stays), then the
        completion's right."""
        over = len(prompt) + len(completion) - context
        self.cut += over > 0
        kept = list(completion[: context - 1])
        asked = list(prompt)
        if over > 0:
            first = asked[:1] if asked[0] == self.start else []
            asked = (first + asked[len(first) :][max(0, len(asked) + len(kept) - context) :]) or asked[-1:]
        self.prompts.append(asked)
        self.completions.append(kept)

    def batch(self, rows: Sequence[int]) -> TokenBatch:
        """Some rows, laid out."""
        return TokenBatch.of([self.prompts[i] for i in rows], [self.completions[i] for i in rows])

    def scores(self, of: Callable[[TokenBatch], Tensor], budget: int, rows: Sequence[int] | None = None) -> Tensor:
        """``of(batch)`` ``[E, B]`` over batches of rows of like length, of at most ``budget`` tokens each, in the rows'
        own order: ``[E, n]``."""
        wanted = range(len(self)) if rows is None else rows
        lengths = torch.tensor([self._length(i) for i in wanted])
        order = sorted(range(len(wanted)), key=lambda i: (int(lengths[i]), i))
        groups = by_tokens(torch.tensor(order), lengths, budget)
        parts = [of(self.batch([wanted[i] for i in group.tolist()])) for group in groups]
        back = torch.empty(len(order), dtype=torch.int64)
        back[torch.tensor(order, dtype=torch.int64)] = torch.arange(len(order))
        return torch.cat(parts, 1)[:, back]

    def tokens(self, rows: Sequence[int]) -> int:
        """Tokens of some rows together."""
        return sum(self._length(i) for i in rows)

    def _length(self, row: int) -> int:
        return len(self.prompts[row]) + len(self.completions[row])

    def __len__(self) -> int:
        return len(self.prompts)


class Reader(Protocol):
    """Turns completions into what one model is fed."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's own."""
        ...

    def read(self, rows: Sequence[Answered], context: int, exact: bool) -> Encoded:
        """Encode rows for a model of ``context`` positions. ``exact``: their ids are of this model's tokenizer."""
        ...


@dataclass(frozen=True)
class TurnReader:
    """Prompt, then completion, by the rules of ``LanguagePolicy``: what a policy with this tokenizer samples."""

    policy: LanguagePolicy

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The policy's."""
        return self.policy.tokenizer

    def read(self, rows: Sequence[Answered], context: int, exact: bool) -> Encoded:
        """Exact ids as they are; whatever has none is encoded from text."""
        made = Encoded(start=self.tokenizer.bos_token_id)
        for row in rows:
            payload = renderable(row.payload, self.tokenizer)
            prompt = row.prompt if exact else None
            completion = row.completion if exact else None
            if prompt is None:
                prompt = self.policy.encode_task(payload)
            if completion is None:
                completion = self.policy.encode_completion(row.text, row.ended, payload)
            made.add(prompt, completion, context)
        return made


@dataclass(frozen=True)
class WholeReader:
    """The rendered conversation in one piece, with all that the template writes behind the answer.

    Plain prompts: prompt + completion as one text, and one EOS behind it where ``end`` (TRL's and most trainers' way).
    """

    policy: LanguagePolicy
    end: bool = True

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's own."""
        return self.policy.tokenizer

    def read(self, rows: Sequence[Answered], context: int, exact: bool) -> Encoded:
        """Exact ids are followed by what the template writes behind an end; texts are rendered and encoded whole."""
        made = Encoded(start=self.tokenizer.bos_token_id)
        for row in rows:
            payload = renderable(row.payload, self.tokenizer)
            messages = chat.conversation(self.tokenizer, payload)
            head = list(row.prompt) if exact and row.prompt is not None else self.policy.encode_task(payload)
            if exact and row.completion is not None:
                tail = self._tail(messages) if messages is not None and row.ended else []
                made.add(head, [*row.completion, *tail], context)
                continue
            ids = self._plain(row) if messages is None else self._chat(messages, row.text, row.ended)
            shared = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(head, ids, strict=False)))
            made.add(ids[: max(1, shared)], ids[max(1, shared) :], context)
        return made

    def _plain(self, row: Answered) -> list[int]:
        ids = list(self.tokenizer(str(row.payload["prompt"]) + row.text)["input_ids"])
        while ids and ids[-1] in self.policy.eos:  # whether this tokenizer ends its texts or not: one rule
            ids.pop()
        if self.end and row.ended:
            own = self.tokenizer.eos_token_id
            ids.append(min(self.policy.eos) if own is None else own)
        return ids or self.policy.encode_prompt("")

    def _chat(self, messages: Sequence[Mapping[str, Any]], text: str, ended: bool) -> list[int]:
        given, before = [dict(m) for m in messages], ""
        if given[-1]["role"] == "assistant":  # the answer goes on where the conversation stops
            before = str(given.pop()["content"])
        if not ended and not (before + text).strip():
            return chat.prompt_ids(self.tokenizer, messages)
        answer = {"role": "assistant", "content": before + text}
        whole = str(self.tokenizer.apply_chat_template([*given, answer], tokenize=False))
        if not ended:
            said = (before + text).strip()
            whole = whole[: whole.rindex(said) + len(said)] if said in whole else whole
        return list(self.tokenizer(whole, add_special_tokens=False)["input_ids"])

    def _tail(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """What the template writes behind the end of an answer (ChatML: a line break)."""
        whole = self._chat(messages, "x", True)
        ends = [i for i, token in enumerate(whole) if token in self.policy.eos]
        return whole[ends[-1] + 1 :] if ends else []


@dataclass(frozen=True)
class PairReader:
    """Prompt and completion as the two sentences of an encoder; ids of a policy mean nothing here."""

    tokenizer: PreTrainedTokenizerBase

    def read(self, rows: Sequence[Answered], context: int, exact: bool) -> Encoded:
        """Encode pairs; where they are too long, words go from the first sentence's left, then the second's right."""
        made = Encoded()
        for row in rows:
            pair = self.tokenizer(str(row.payload["prompt"]), row.text)
            sentence, types = pair.sequence_ids(0), pair.get("token_type_ids")
            over = len(sentence) - context
            first = [i for i, s in enumerate(sentence) if s == 0]
            second = [i for i, s in enumerate(sentence) if s == 1]
            gone = {*first[: max(0, over)], *(second[-rest:] if (rest := over - len(first)) > 0 else [])}
            kept = [i for i in range(len(sentence)) if i not in gone]
            begins = min([i for i in kept if (types[i] if types and any(types) else sentence[i]) == 1], default=None)
            at = len(kept) if begins is None else kept.index(begins)
            ids = [int(pair["input_ids"][i]) for i in kept]
            made.prompts.append(ids[:at])
            made.completions.append(ids[at:])
            made.cut += over > 0
        return made


def reader_of(classifier: Classifier, form: Form, end: bool = True) -> Reader:
    """The reader of a classifier; ModelError for an encoder's tokenizer that cannot tell where a pair is joined."""
    if form == "pair":
        if not classifier.tokenizer.is_fast:
            raise ModelError(
                f"a {type(classifier.tokenizer).__name__} does not say where the sentences of a pair meet",
                "save the tokenizer as tokenizer.json (the fast form)",
            )
        return PairReader(classifier.tokenizer)
    rules = LanguagePolicy(classifier.model, classifier.tokenizer, classifier.eos)  # its rules of encoding alone
    return TurnReader(rules) if form == "turns" else WholeReader(rules, end)


def renderable(payload: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Mapping[str, Any]:
    """The payload without its messages where this tokenizer has no template for them: the prompt's text stands in."""
    if tokenizer.chat_template or "messages" not in payload:
        return payload
    return {key: value for key, value in payload.items() if key != "messages"}


def shares_ids(policy: PreTrainedTokenizerBase, reward: PreTrainedTokenizerBase) -> bool:
    """Whether ids of the policy's tokenizer mean the same to the reward model's: every token it knows, the ids that
    begin and end a text, the chat template and when it is used. A reward model may know more (a pad token of its own).
    Names do not count."""
    theirs, ours = policy.get_vocab(), reward.get_vocab()
    return (
        all(ours.get(token) == number for token, number in theirs.items())
        and (policy.bos_token_id, policy.eos_token_id) == (reward.bos_token_id, reward.eos_token_id)
        and policy.chat_template == reward.chat_template
        and chat.chat_mode(policy) == chat.chat_mode(reward)
    )
