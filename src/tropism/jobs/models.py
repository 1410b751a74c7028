"""The model a job starts from, and the tokenizer's chat template."""

from __future__ import annotations

from pathlib import Path

from tropism.engine.chat import ChatMode, read_template
from tropism.engine.models import hub_commit
from tropism.jobs.config import required
from tropism.language.policy import LanguagePolicy
from tropism.settings.sections import Section


class ModelPath(Section):
    """``[model]``: a causal language model by folder or hub name."""

    path: str = ""
    chat: ChatMode | None = None
    """When prompts go through the chat template: ``auto`` (only prompts that are messages), ``always``, ``never``.
    Absent: as the tokenizer was saved."""
    chat_template: str | None = None
    """A Jinja file in place of the tokenizer's own template."""

    def load(self, setting: str = "model.path", flag: str = "--model") -> LanguagePolicy:
        """The policy, its template as chosen. Errors: ModelError; ConfigError without a path or template file."""
        policy = LanguagePolicy.load(required(self.path, setting, flag))
        if self.chat is None and self.chat_template is None:
            return policy
        return policy.with_chat(self.chat, None if self.chat_template is None else read_template(self.chat_template))

    def about(self) -> str:
        """The model's name for cards and results: a folder's last part, or the hub name with its commit."""
        commit = hub_commit(self.path)
        return f"{self.path}@{commit[:12]}" if commit else Path(self.path).name
