"""Answers as text or as chat messages, and prompts that are written inside the answers.

One rule for each: which messages belong to the prompt, where a common beginning ends. Left out: chat templates, which
belong to models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tropism.data.records import Message, Prompt
from tropism.data.rows import Row, message, text_of
from tropism.data.strict_json import BadRow

Answer = str | tuple[Message, ...]


def answer_of(row: Row, column: str, *, empty: bool = False) -> Answer:
    """An answer: text, a list of messages, or one message as an object. Errors: BadRow."""
    value = row.get(column)
    if isinstance(value, Mapping):
        return (message(value, column, row.repaired),)
    found = row.messages_in(column)
    return text_of(value, column, empty=empty) if found is None else found


def candidate_of(answer: Answer, row: Row, *, empty: bool = False) -> dict[str, Any]:
    """A candidate's content: its text, and its messages where it came as such.

    The text of one message is its content; several are shown as ``role: content`` paragraphs.
    """
    if isinstance(answer, str):
        if not answer.strip():
            row.noted["empty answers"] += 1
        return {"text": answer}
    text = answer[0]["content"] if len(answer) == 1 else "\n\n".join(f"{m['role']}: {m['content']}" for m in answer)
    if not text.strip():
        if not empty:
            raise BadRow("an answer of chat messages is empty")
        row.noted["empty answers"] += 1
    return {"text": text, "messages": [dict(m) for m in answer]}


def dialogue(prompt: Prompt | None, answers: Sequence[Answer], row: Row) -> tuple[Prompt, list[Answer]]:
    """A prompt and the answers to it alone.

    Without a prompt it is the answers' common beginning (``common_messages``, ``common_text``). A text prompt beside
    answers of messages becomes a user message; a prompt that all answers repeat is taken off them. Errors: BadRow.
    """
    chats = [a for a in answers if not isinstance(a, str)]
    texts = [a for a in answers if isinstance(a, str)]
    if chats and texts:
        raise BadRow("one answer is text and another is a list of messages")
    if prompt is None:
        if len(answers) < 2:
            raise BadRow("column prompt is missing, and one answer alone does not show where it ends")
        row.repaired["prompt taken from the answers' common beginning"] += 1
        return common_messages(chats) if chats else common_text(texts)
    if not chats:
        return prompt, list(answers)
    if isinstance(prompt, str):
        prompt = _as_messages(prompt, chats, row)
    for said in (prompt, prompt[1:] if prompt[0]["role"] == "system" else ()):
        n = len(said)
        if n and all(len(chat) > n and chat[:n] == said for chat in chats):
            row.repaired["prompt repeated in the answers taken off"] += 1
            return prompt, [chat[n:] for chat in chats]
    return prompt, list(chats)


def common_messages(chats: Sequence[tuple[Message, ...]]) -> tuple[Prompt, list[Answer]]:
    """The messages that all begin with, short of each one's last, and what is left of each. Errors: BadRow."""
    most = min(len(chat) for chat in chats) - 1
    shared = 0
    while shared < most and all(chat[shared] == chats[0][shared] for chat in chats):
        shared += 1
    while shared and chats[0][shared - 1]["role"] == "assistant":
        shared -= 1  # a prompt ends with somebody else's turn: the answers begin with the assistant's
    if not shared:
        raise BadRow("the answers have no first message in common, so there is no prompt")
    if any(chat[shared]["role"] != "assistant" for chat in chats):
        raise BadRow("the dialogues part in a turn that is not the assistant's")
    return chats[0][:shared], [chat[shared:] for chat in chats]


def common_text(texts: Sequence[str]) -> tuple[Prompt, list[Answer]]:
    """The text that all begin with, up to its last white space, which stays with the answers. Errors: BadRow.

    So "The sky is blue." and "The sky is green." give "The sky is", " blue." and " green.".
    """
    low, high = min(texts), max(texts)  # what these two share, all between them share
    end = 0
    while end < min(len(low), len(high)) and low[end] == high[end]:
        end += 1
    if end == len(low):
        end -= 1  # one text is the beginning of the other: it keeps its last word
    while end > 0 and not low[end - 1].isspace():
        end -= 1
    prompt = low[: max(end, 0)].rstrip()
    rest = [text[len(prompt) :] for text in texts]
    if not prompt or not all(text.strip() for text in rest):
        raise BadRow("the answers have no beginning in common, so there is no prompt; give a column prompt")
    return prompt, list(rest)


def last_turn(chat: tuple[Message, ...], name: str) -> tuple[tuple[Message, ...], str]:
    """The messages before the last, and the last one's content. Errors: BadRow unless it is an assistant's."""
    if len(chat) < 2:
        raise BadRow(f"{name} has no message before the answer")
    if chat[-1]["role"] != "assistant":
        raise BadRow(f"{name} ends with a message of {chat[-1]['role']}, not of the assistant")
    if not chat[-1]["content"].strip():
        raise BadRow(f"the last message of {name} is empty")
    return chat[:-1], chat[-1]["content"]


def _as_messages(prompt: str, chats: Sequence[tuple[Message, ...]], row: Row) -> tuple[Message, ...]:
    """A text prompt as the messages it stands for: those the answers begin with, or one user message."""
    for n in range(1, min(len(chat) for chat in chats)):
        head = chats[0][:n]
        if head[-1]["role"] == "user" and head[-1]["content"] == prompt and all(chat[:n] == head for chat in chats):
            return head
    row.repaired["text prompt beside message answers made a user message"] += 1
    return ({"role": "user", "content": prompt},)
