"""The model a job starts from, and the tokenizer's chat template."""

from __future__ import annotations

from pathlib import Path

from tropism.engine.chat import ChatMode, set_chat
from tropism.engine.models import hub_commit
from tropism.errors import ConfigError
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
        if self.chat is not None or self.chat_template is not None:
            set_chat(policy.tokenizer, self.chat or "auto", self._template())
        return policy

    def about(self) -> str:
        """The model's name for cards and results: a folder's last part, or the hub name with its commit."""
        commit = hub_commit(self.path)
        return f"{self.path}@{commit[:12]}" if commit else Path(self.path).name

    def _template(self) -> str | None:
        if self.chat_template is None:
            return None
        try:
            return Path(self.chat_template).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"model.chat_template {self.chat_template} cannot be read: {error}", "name a UTF-8 Jinja file"
            ) from error
