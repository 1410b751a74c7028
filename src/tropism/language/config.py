"""The language domain's sections of study.toml, each field documented where it stands."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tropism.engine.adapters import LoraSettings
from tropism.engine.chat import ChatMode
from tropism.language.policy import ValueTrunk
from tropism.language.sft import SftSettings
from tropism.language.worlds.base import ModelSettings
from tropism.runtime.precision import PrecisionName
from tropism.settings.sections import Section


class WorldSection(Section):
    """Where tasks come from."""

    name: str = "text"
    """``tinytalk`` (made by the package), ``sentiment`` (a data folder), or ``text`` (files of your own)."""
    data: str | None = None
    """Data folder of a world that reads one (sentiment)."""
    prompts: str | None = None
    """text: prompts, JSONL with ``prompt``, CSV with a ``prompt`` column, or one per line."""
    demonstrations: str | None = None
    """text: JSONL with ``prompt`` and ``completion`` for SFT."""
    gold: str | None = None
    """text: ``file.py:function`` of (prompts, completions, rows) that returns true utilities for oracle teachers."""
    test_fraction: float = Field(0.2, gt=0, lt=1)
    """text: share of prompts held out for evaluation, by hash of the prompt."""
    validation_fraction: float = Field(0.15, gt=0, lt=1)
    """text: share of prompts whose feedback is held out to assess reward models."""
    options: dict[str, Any] = Field({})
    """Further options of a world, passed on as they are."""


class ModelSection(ModelSettings):
    """The starting model: a folder or name to load, or the shape of one that the world makes on the spot."""

    path: str | None = None
    """Hugging Face folder or name; a folder of LoRA adapters too. Without it the world makes a model."""
    chat: ChatMode | None = None
    """When prompts go through the chat template: ``auto`` (only prompts that are messages), ``always`` (a plain prompt
    becomes one user's message), ``never`` (messages are shown as plain text); null: as the tokenizer was saved."""
    chat_template: str | None = None
    """A Jinja file in place of the tokenizer's own template."""


class SftSection(SftSettings):
    """Supervised fine-tuning of the starting model on demonstrations."""

    demonstrations: int = Field(2000, ge=0)
    """How many demonstrations to take (fewer if the world has fewer); 0: no SFT."""


class SamplingSection(Section):
    """How policies answer. Only temperature: other truncations bias the PPO ratio."""

    max_new_tokens: int = Field(24, ge=1)
    temperature: float = Field(1.0, gt=0)


NetworkKind = Literal["frozen", "classifier", "lexical"]


class RewardModelSection(Section):
    """A reward model and how it is fitted."""

    network: NetworkKind = "frozen"
    """``frozen``: small networks on features of a language model that does not move; ``classifier``: a decoder or
    encoder with a classification head, fine-tuned; ``lexical``: the text alone, no language model."""
    base: str | None = None
    """The reward model's own starting model, folder or name; null: the reference policy."""
    members: int | None = Field(None, ge=1)
    """Members of the ensemble: small networks (frozen; null: 5), or heads on one trunk (classifier; null: 1)."""
    hidden: int = Field(64, ge=1)
    """Width of the small networks (frozen)."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of the small networks (frozen); a classifier has its model's own."""
    max_tokens: int | None = Field(None, ge=8)
    """Longest prompt and completion together; null: the model's context. Longer prompts lose their left end."""
    epochs: int | None = Field(None, ge=1)
    """Most passes over the feedback; null: 30 (frozen), 3 (classifier)."""
    batch_size: int = Field(64, ge=1)
    """Judgements per optimiser step."""
    micro_batch_tokens: int = Field(4096, ge=1)
    """Most tokens of one forward of a classifier; a larger batch goes in pieces, whose activations are computed twice.
    """
    learning_rate: float | None = Field(None, gt=0)
    """Null: 2e-3 (frozen); 2e-5 for a classifier's trunk, 2e-4 for adapters of it."""
    head_learning_rate: float | None = Field(None, gt=0)
    """Rate of a classifier's head, and of what links scores to ratings and labels; null: 1e-3 (classifier)."""
    weight_decay: float = Field(0.01, ge=0)
    patience: int | None = Field(None, ge=1)
    """Epochs without a better held-out likelihood before the fit stops; null: 6 (frozen), 2 (classifier)."""
    center_coef: float = Field(0.0, ge=0)
    """Weight of the squared sum of a comparison's scores: settles their level (Eisenstein et al. 2023)."""
    lora: LoraSettings = LoraSettings()
    """Train adapters of a classifier's trunk, and its head, instead of all weights; they are merged when it is saved.
    """
    strength_margin: float = Field(0.0, ge=0)
    """Margin, in logits, of a comparison at full strength; 0 ignores strengths."""
    rating_loss: Literal["regression", "ordinal"] = "regression"
    pessimism: float = Field(0.0, ge=0)
    """c in mean − c·variance over the ensemble."""
    judge: bool = True
    """Fit a second model on the validation split alone, to judge win rates where nobody knows the truth."""

    @model_validator(mode="after")
    def _adapters(self) -> RewardModelSection:
        if self.lora.rank and self.network != "classifier":
            raise ValueError(f'lora.rank = {self.lora.rank} with network = "{self.network}", which has no adapters')
        if self.lora.save == "adapter":
            raise ValueError('lora.save = "adapter": a reward model is saved whole ("merged")')
        return self


class RewardSection(RewardModelSection):
    """What the policy is paid for."""

    learned: bool = True
    """Fit a reward model on feedback. False: the functions below are the whole reward."""
    weight: float = 1.0
    """Weight of the learned score (standardised on the reference's samples)."""
    functions: dict[str, float] = Field({})
    """``"file.py:function" = weight``: Python rewards of (prompts, completions, rows), added to the learned score."""
    clip: float | None = Field(None, gt=0)
    """Clip of the summed score, in standard deviations of the reference's samples."""
    missing_end_penalty: float = Field(1.0, ge=0)
    """Taken off a completion that the length limit cut."""
    scale_samples: int = Field(256, ge=8)
    """Samples of the reference on which the scale (mean 0, deviation 1) is frozen."""


class PpoSection(Section):
    """Proximal policy optimisation (Schulman et al. 2017) as in InstructGPT (Ouyang et al. 2022)."""

    steps: int = Field(40, ge=1)
    """Rollout-and-optimise steps per round."""
    prompts: int = Field(4000, ge=1)
    """Train prompts to cycle through (fewer if the world has fewer)."""
    batch_size: int = Field(128, ge=1)
    """Completions per rollout."""
    completions_per_prompt: int = Field(1, ge=1)
    epochs: int = Field(4, ge=1)
    mini_batch_size: int = Field(32, ge=1)
    """Completions per optimiser step."""
    micro_batch_tokens: int = Field(8192, ge=1)
    """Most tokens (prompts and completions) of one forward; only memory depends on it."""
    reuse_logprobs: bool = True
    """Take the sampler's log-probabilities as old_logprobs while the step before showed a mean difference to the
    trainer's below 1e-3 nats a token; else they are scored again."""
    learning_rate: float = Field(2e-4, gt=0)
    warmup_steps: int = Field(5, ge=0)
    """Steps over which the learning rate rises from 0, after the critic's warm-up."""
    critic_warmup_steps: int = Field(3, ge=0)
    """First steps in which only the value head learns."""
    critic_learning_rate: float | None = Field(1e-3, gt=0)
    """Learning rate of the value head and separate trunk; null: that of the policy."""
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    value_trunk: ValueTrunk = "separate"
    """``shared`` takes a third or more off a step's time, and earned less at equal KL where that was measured."""
    value_coef: float = Field(0.1, ge=0)
    """c₁ of the value loss."""
    value_clip_range: float | None = Field(None, gt=0)
    """Value clipping in units of the return's deviation; null: off."""
    entropy_coef: float = Field(0.0, ge=0)
    clip_range: float = Field(0.2, gt=0)
    """ε of the clipped surrogate."""
    gamma: float = Field(1.0, gt=0, le=1)
    lam: float = Field(0.95, ge=0, le=1)
    """λ of generalised advantage estimation (Schulman et al. 2016)."""
    kl_old_coef: float = Field(0.0, ge=0)
    """β of KL(π_old‖π_θ)."""
    kl_ref_coef: float = Field(0.1, ge=0)
    """Weight of the KL to the reference."""
    kl_ref_in: Literal["reward", "loss"] = "reward"
    """``reward``: −coef·k1 per token, so that returns hold the KL still to come; ``loss``: a differentiable
    KL(π_θ‖π_ref) of each token's distribution."""
    kl_target: float | None = Field(None, gt=0)
    """Sequence KL (nats) that an adaptive coefficient aims at (Ziegler et al. 2019); null: fixed."""
    kl_rate: float = Field(0.1, gt=0, lt=5)
    """Rate K_β of the adaptive coefficient, per rollout."""
    kl_old_stop: float | None = Field(0.1, gt=0)
    """Stop a step's remaining mini-batches once KL(π_old‖π_θ) per token exceeds this."""
    kl_limit: float | None = Field(None, gt=0)
    """Stop the round once the sequence KL to the reference exceeds this many nats."""
    ptx_coef: float = Field(0.0, ge=0)
    """Weight of the pretraining mix (PPO-ptx): SFT loss on demonstrations."""
    ptx_batch_size: int = Field(32, ge=1)
    divergence_kl: float = Field(2.0, gt=0)
    """KL(π_old‖π_θ) per token beyond which a step counts as diverged and is rolled back."""
    divergence_loss: float = Field(1e3, gt=0)
    max_rollbacks: int = Field(3, ge=0)
    checkpoint_every: int = Field(5, ge=1)

    @model_validator(mode="after")
    def _sizes(self) -> PpoSection:
        if self.batch_size % self.completions_per_prompt:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of completions_per_prompt")
        if self.mini_batch_size > self.batch_size:
            raise ValueError(f"mini_batch_size {self.mini_batch_size} is larger than batch_size {self.batch_size}")
        return self


class EvaluationSection(Section):
    """What every round is measured by, on test prompts."""

    prompts: int = Field(300, ge=2)
    keep: list[str] = Field([])
    """Aspects that no round may lose (against the reference, within the tolerance); a loss blocks promotion."""
    tolerance: float = Field(0.05, ge=0)
    """How much of a kept aspect, and of the win rate against the policy before, may be lost to noise."""
    kl_limit: float | None = Field(None, gt=0)
    """Sequence KL beyond which a round is not promoted."""


class RuntimeSection(BaseModel):
    """What the language domain reads of the study's [runtime]."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    precision: PrecisionName = "auto"


class LanguageConfig(Section):
    """All sections of the language domain."""

    world: WorldSection = WorldSection()
    model: ModelSection = ModelSection()
    sft: SftSection = SftSection()
    lora: LoraSettings = LoraSettings()
    sampling: SamplingSection = SamplingSection()
    reward: RewardSection = RewardSection()
    ppo: PpoSection = PpoSection()
    evaluation: EvaluationSection = EvaluationSection()
    runtime: RuntimeSection = RuntimeSection()
