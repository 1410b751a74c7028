"""Errors a user can mend: each names the offending value and the fix."""

from __future__ import annotations


class TropismError(Exception):
    """Base of every error that tropism raises on purpose.

    ``problem`` names the offending value; ``fix`` says what to do about it. The command line prints both and exits 2.
    """

    def __init__(self, problem: str, fix: str = "") -> None:
        super().__init__(f"{problem}\n  fix: {fix}" if fix else problem)
        self.problem = problem
        self.fix = fix


class ConfigError(TropismError):
    """A configuration that cannot be used: an unknown key, a value out of range, a contradiction."""


class DataError(TropismError):
    """Input data that cannot be used: a missing column, a wrong type, an empty file, a broken row."""


class ModelError(TropismError):
    """A model or tokenizer that cannot be loaded or that the engine would compute wrongly."""


class StoreError(TropismError):
    """The study's database or artifacts are missing, damaged, of another version, or cannot be written."""


class LeaseHeldError(StoreError):
    """Another process is the trainer of this study."""


class RewardError(TropismError):
    """A reward model or reward function gave something unusable (NaN, a wrong shape, an exception)."""


class ContractError(TropismError):
    """An invariant of the mathematics does not hold in a running job (ratio at step 0, KL of equal weights, …)."""


class DivergenceError(TropismError):
    """Training diverged and every allowed roll-back was spent."""


class InterruptedRun(TropismError):
    """The process was asked to stop (SIGTERM or Ctrl-C) and stopped cleanly at a durable point.

    ``exit_code`` is 128 + the signal's number: 130 for Ctrl-C, 143 for SIGTERM.
    """

    exit_code: int = 130


class QueueError(TropismError):
    """What the queue of questions to people cannot do with an assignment."""


class NotYours(QueueError):
    """The assignment does not exist, or is another person's."""


class LeaseLost(QueueError):
    """The lease ran out and the question's place was given to somebody else; an answer is still taken, and flagged."""


class AlreadyAnswered(QueueError):
    """The assignment was answered, skipped or taken back before, under another submission."""


class UndoTooLate(QueueError):
    """The time in which an answer can be taken back has passed."""
