"""What a row asks: its prompt, in the forms that data come in.

A ``prompt`` column · ``instruction`` with ``input`` and ``history`` · turns in ``conversations``; a ``system`` message
before any of them. Left out: prompts inside the answers (``chat.py``).
"""

from __future__ import annotations

from tropism.data.records import Message, Prompt
from tropism.data.rows import Row, kind_of, text_of
from tropism.data.strict_json import BadRow

ASKING = ("prompt", "conversations", "instruction", "input", "history", "system")
"""The columns that are looked at."""


def asked(row: Row) -> Prompt:
    """The prompt of a row. Errors: BadRow if there is none, or it is broken."""
    if "prompt" in row.values:
        return with_system(row, row.prompt())
    if "instruction" in row.values:
        given = row.text("input", empty=True) if row.has("input") else ""
        row.used.add("input")
        return with_system(row, _after_history(row, instruction_text(instruction_of(row, given), given)))
    if "conversations" in row.values:
        return with_system(row, turns(row, "conversations"))
    raise BadRow(row.missing("prompt"))


def instruction_of(row: Row, given: str) -> str:
    """The instruction; it may be empty where there is an input. Errors: BadRow."""
    return row.text("instruction", empty=bool(given.strip()))


def instruction_text(instruction: str, given: str) -> str:
    """An instruction and its input as one prompt, with a blank line between them; either may be missing."""
    return "\n\n".join(part for part in (instruction, given) if part.strip())


def turns(row: Row, column: str) -> tuple[Message, ...]:
    """A column of chat messages. Errors: BadRow."""
    found = row.messages_in(column)
    if found is None:
        raise BadRow(f"{column} is {kind_of(row.values[column])}, not a list of messages")
    return found


def with_system(row: Row, prompt: Prompt) -> Prompt:
    """The prompt after the row's ``system`` message, as messages; as it is where the row has none, or an empty one."""
    row.used.add("system")
    system = row.text("system", empty=True) if row.has("system") else ""
    if not system.strip():
        return prompt
    said = (_message("user", prompt),) if isinstance(prompt, str) else prompt
    if said[0]["role"] == "system":
        raise BadRow("a column system beside messages that begin with a system message")
    return _message("system", system), *said


def _after_history(row: Row, prompt: str) -> Prompt:
    """An instruction after the exchanges before it: ``history`` is a list of [question, answer]."""
    row.used.add("history")
    exchanges = row.listed("history") if row.has("history") else []
    said: list[Message] = []
    for place, pair in enumerate(exchanges, 1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRow(f"history[{place}] is {kind_of(pair)}, not a question and its answer")
        for role, text in zip(("user", "assistant"), pair, strict=True):
            said.append(_message(role, text_of(text, f"history[{place}]")))
    return (*said, _message("user", prompt)) if said else prompt


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}
