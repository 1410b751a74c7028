"""Chat templates: messages to prompt ids, an answer to completion ids, with the token boundary between them kept.

The tokenizer's own template is applied once, BOS and all; what follows the rendered prompt is the completion. The
choice of when to use it (``chat``) travels with the tokenizer, so that everything that holds one encodes alike.

Left out: tools and documents in a template, images, and the quoting of special tokens that stand in a message's text
(they are parsed as tokens, as everywhere in the field).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from tropism.errors import ConfigError, DataError, ModelError

ChatMode = Literal["auto", "always", "never"]
"""``auto``: only prompts that are messages go through the template; ``always``: a plain prompt becomes one user's
message; ``never``: messages are shown as plain text."""

_KEY = "tropism_chat"  # in tokenizer_config.json, where transformers keeps what it does not know
Message = Mapping[str, Any]


def set_chat(tokenizer: PreTrainedTokenizerBase, mode: ChatMode, template: str | None = None) -> None:
    """Choose the mode, and a template in place of the tokenizer's own; both are saved with the tokenizer."""
    if template is not None:
        tokenizer.chat_template = template
    tokenizer.init_kwargs.pop(_KEY, None)
    if mode != "auto":  # the default leaves the tokenizer's files as they were
        tokenizer.init_kwargs[_KEY] = mode


def read_template(path: str | Path) -> str:
    """A template's text from a Jinja file; ConfigError where it cannot be read."""
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the chat template {path} cannot be read: {error}", "name a UTF-8 Jinja file") from error


def chat_mode(tokenizer: PreTrainedTokenizerBase) -> ChatMode:
    """When prompts go through the template; ModelError for a mode that a damaged tokenizer_config.json names."""
    mode = tokenizer.init_kwargs.get(_KEY, "auto")
    if mode not in get_args(ChatMode):
        raise ModelError(
            f"tokenizer_config.json has {_KEY} = {mode!r}", f"write one of {', '.join(get_args(ChatMode))} there"
        )
    return mode


def conversation(tokenizer: PreTrainedTokenizerBase, payload: Mapping[str, Any]) -> list[Message] | None:
    """The messages of a task that the template is to render, or None where its ``prompt`` is plain text.

    ``payload`` holds ``prompt`` and perhaps ``messages`` (``[{"role": …, "content": …}, …]``). DataError for messages
    of another form; ModelError where there is no template to render them.
    """
    mode, messages = chat_mode(tokenizer), payload.get("messages")
    if mode == "never" or (mode == "auto" and not messages):
        return None
    made = messages if messages else [{"role": "user", "content": str(payload["prompt"])}]
    if not isinstance(made, Sequence) or not all(
        isinstance(m, Mapping) and isinstance(m.get("role"), str) and "content" in m for m in made
    ):
        raise DataError(f"messages are {made!r:.80}", 'write [{"role": "user", "content": "…"}, …]')
    if not tokenizer.chat_template:
        raise ModelError(
            f"a prompt is a chat of {len(made)} messages, and the tokenizer has no chat template",
            'set model.chat_template = "FILE.jinja", or model.chat = "never" to show messages as plain text',
        )
    return list(made)


def turn_ends(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The special token that the template writes right behind an answer: where a chat model stops, whether or not
    anything names it an EOS. Empty without a template, or where none follows."""
    if not tokenizer.chat_template or chat_mode(tokenizer) == "never":
        return frozenset()
    probe = "tropism"
    asked = [{"role": "user", "content": probe}]
    try:
        whole = _render(tokenizer, [*asked, {"role": "assistant", "content": probe}])
    except DataError:  # a template that wants more than a question and an answer: its EOS must be named elsewhere
        return frozenset()
    ids = _encode(tokenizer, whole[whole.rfind(probe) + len(probe) :].lstrip())
    return frozenset(ids[:1]) & frozenset(tokenizer.all_special_ids)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Ids of the rendered messages and what opens the assistant's turn. BOS only where the template writes it.

    Where the last message is the assistant's own, its turn stays open and the completion goes on with it.
    """
    text = _rendered_prompt(tokenizer, messages)
    ids = _encode(tokenizer, text)
    if not ids:
        raise DataError(f"the chat template renders {messages!r:.80} as nothing", "mend model.chat_template")
    return ids


def completion_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], text: str, ended: bool, eos: Collection[int]
) -> list[int]:
    """Ids of an answer as the template writes it behind the rendered prompt, up to the first of the ``eos`` ids.

    That id belongs to it if the answer ``ended`` (the tokenizer's own EOS is added where the template writes none).
    An answer that was cut keeps nothing of what follows its text. DataError if the rendered conversation does not
    begin with the rendered prompt: its tokens would not be those that a policy is sampled behind.
    """
    prompt = _rendered_prompt(tokenizer, messages)
    given = list(messages)
    before = str(given.pop()["content"]) if _goes_on(messages) else ""
    whole = _render(tokenizer, [*given, {"role": "assistant", "content": before + text}])
    if not whole.startswith(prompt):
        same = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(whole))
        raise DataError(
            f"the chat template changes the prompt once there is an answer: {prompt[same:]!r:.40} becomes"
            f" {whole[same:]!r:.40}",
            "use a template whose conversation begins with its prompt (model.chat_template)",
        )
    if not ended:
        whole = _until(whole, text, len(prompt))
    head, ids = _encode(tokenizer, prompt), _encode(tokenizer, whole)
    # where a token spans the boundary, the answer is encoded alone: a policy is sampled behind the prompt's own ids
    ids = ids[len(head) :] if ids[: len(head)] == head else _encode(tokenizer, whole[len(prompt) :])
    first = next((i for i, token in enumerate(ids) if token in eos), None)
    if first is not None:
        return ids[: first + 1] if ended else ids[:first]
    own = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else min(eos)
    return [*ids, own] if ended else ids


def _goes_on(messages: Sequence[Message]) -> bool:
    return bool(messages) and messages[-1]["role"] == "assistant"


def _rendered_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    last = "continue_final_message" if _goes_on(messages) else "add_generation_prompt"
    return _render(tokenizer, messages, **{last: True})


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], **options: bool) -> str:
    """The template's text; its many errors become one."""
    try:
        rendered = tokenizer.apply_chat_template([dict(m) for m in messages], tokenize=False, **options)
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        roles = ", ".join(m["role"] for m in messages)
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"the chat template refuses messages of the roles {roles}: {first}",
            "order the messages as the template wants them, or give another one (model.chat_template)",
        ) from error
    return str(rendered)


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _until(whole: str, text: str, start: int) -> str:
    """``whole`` up to the end of ``text`` behind ``start``; templates may strip it."""
    for form in (text, text.strip()):
        at = whole.rfind(form, start)
        if form and at >= 0:
            return whole[: at + len(form)]
    return whole[:start] if not text.strip() else whole
