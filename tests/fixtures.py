"""Tiny language models made from configurations, a word tokenizer, and a PPO run on a toy reward, for the tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from tropism.engine.adapters import LoraSettings
from tropism.engine.generation import Generation, Sampling
from tropism.feedback.records import Task
from tropism.language.config import PpoSection
from tropism.language.leash import leashed
from tropism.language.policy import ActorCritic, LanguagePolicy, copy_of
from tropism.language.ppo import PpoTrainer
from tropism.language.rewards import CallableReward, RewardSum
from tropism.language.rollouts import Rollout
from tropism.runtime.precision import Precision
from tropism.runtime.stage import StageRun

PAD, BOS, EOS, UNK = 0, 1, 2, 3
VOCABULARY = 64
FP32, AUTOCAST, BF16 = Precision("fp32"), Precision("autocast"), Precision("bf16")
PRECISIONS = (FP32, AUTOCAST, BF16)


def word_tokenizer(pad: str = "<pad>") -> PreTrainedTokenizerFast:
    """64 words: <pad> <bos> <eos> <unk> w0 … w59; ``pad="<eos>"`` makes pad and EOS one token."""
    words = ["<pad>", "<bos>", "<eos>", "<unk>", *(f"w{i}" for i in range(VOCABULARY - 4))]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token=pad, unk_token="<unk>"
    )


def llama(seed: int = 0, scale: float = 0.3, kind: type[LlamaForCausalLM] = LlamaForCausalLM, **over: Any) -> Any:
    """Two Llama layers of width 32. ``scale``: deviation of the initial weights (0.3 gives uneven distributions)."""
    torch.manual_seed(seed)
    shape = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 64, "initializer_range": scale,
        "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD,
    }  # fmt: skip
    return kind(LlamaConfig(**(shape | over))).eval()


def gpt2(seed: int = 0, dropout: float = 0.5) -> GPT2LMHeadModel:
    """Two GPT-2 layers with strong dropout and tied embeddings."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, resid_pdrop=dropout,
        embd_pdrop=dropout, attn_pdrop=dropout, bos_token_id=BOS, eos_token_id=EOS, initializer_range=0.3,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def gemma2(seed: int = 0) -> Gemma2ForCausalLM:
    """Two Gemma-2 layers whose final soft cap really bends the logits, one layer with a window of 4."""
    torch.manual_seed(seed)
    config = Gemma2Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, sliding_window=4, final_logit_softcapping=2.0,
        initializer_range=0.5, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip
    return Gemma2ForCausalLM(config).eval()


def policy_of(model: nn.Module, eos: frozenset[int] = frozenset({EOS}), pad: str = "<pad>") -> LanguagePolicy:
    """A policy around a tiny model."""
    return LanguagePolicy(model, word_tokenizer(pad), eos)


def some_tasks(count: int = 40) -> list[Task]:
    """Prompts of one to four words."""
    return [Task("train", {"prompt": " ".join(f"w{(i + j) % 60}" for j in range(1 + i % 4))}) for i in range(count)]


def some_prompts(count: int, longest: int = 6, seed: int = 0) -> list[list[int]]:
    """Token lists of 1 … ``longest`` tokens that begin with BOS."""
    random = torch.Generator().manual_seed(seed)
    lengths = [1 + i % longest for i in range(count)]
    return [[BOS, *torch.randint(4, VOCABULARY, (n - 1,), generator=random).tolist()] for n in lengths]


def odd_tokens(tasks: Sequence[Task], generation: Generation, texts: Sequence[str]) -> list[float]:
    """The toy reward: 4 × the share of tokens with an odd id (EOS and pad are even: ending early earns nothing)."""
    return [4.0 * sum(t % 2 for t in c) / max(1, len(c)) for c in generation.completions]


@dataclass
class Recorder:
    """A metric sink that keeps what it is given, by step."""

    steps: dict[int, dict[str, float]] = field(default_factory=dict)

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        self.steps[step] = dict(values)

    def comparable(self) -> dict[int, dict[str, float]]:
        """Everything but clocks and memory."""
        return {
            step: {k: v for k, v in values.items() if not k.startswith(("time/", "cpu/", "memory/", "throughput/"))}
            for step, values in self.steps.items()
        }


def settings(**over: Any) -> PpoSection:
    """PPO settings for a toy: small batches, one trunk, no warm-ups unless asked for."""
    base: dict[str, Any] = {
        "steps": 2, "batch_size": 16, "mini_batch_size": 8, "epochs": 2, "learning_rate": 1e-3, "warmup_steps": 0,
        "critic_warmup_steps": 0, "kl_ref_coef": 0.05, "kl_old_stop": None, "checkpoint_every": 100,
        "value_trunk": "shared",
    }  # fmt: skip
    return PpoSection(**(base | over))


def trainer_of(
    folder: Path,
    *,
    model: nn.Module | None = None,
    reward: Callable[..., Sequence[float]] = odd_tokens,
    sampling: Sampling | None = None,
    precision: Precision = FP32,
    eos: frozenset[int] = frozenset({EOS}),
    reference: nn.Module | None = None,
    stop: Callable[[], bool] = lambda: False,
    demonstrations: Sequence[tuple[list[int], list[int]]] = (),
    seed: int = 5,
    penalty: float = 1.0,
    lora: LoraSettings | None = None,
    **over: Any,
) -> PpoTrainer:
    """A PPO trainer on the toy reward; further keywords are settings. Its ``run.metrics`` is a Recorder."""
    policy = policy_of(llama(scale=0.1) if model is None else model, eos)
    chosen = settings(**over)
    given = None if reference is None else LanguagePolicy(reference, policy.tokenizer, eos)
    if lora is not None:
        policy, leash = leashed(policy, given, lora, seed)
    else:
        leash = given or LanguagePolicy(copy_of(policy.model), policy.tokenizer, eos)
    actor = ActorCritic(policy.model, chosen.value_trunk)
    run = StageRun("improve-1", folder, seed, metrics=Recorder(), stop_requested=stop)
    return PpoTrainer(
        policy, leash, actor,
        RewardSum([CallableReward("toy", reward)], penalty), some_tasks(), chosen,
        sampling or Sampling(8, eos), precision, run, demonstrations,
    )  # fmt: skip


def metrics(trainer: PpoTrainer) -> dict[int, dict[str, float]]:
    """What the run wrote, by step."""
    assert isinstance(trainer.run.metrics, Recorder)
    return trainer.run.metrics.steps


def scored_rollout(trainer: PpoTrainer) -> Rollout:
    """A rollout of the first 16 tasks, scored and paid."""
    rollout = trainer.sample([trainer.tasks[i] for i in range(16)])
    trainer.score(rollout)
    rollout.paid = trainer.rewards(rollout.tasks, rollout.generation, rollout.texts)
    return rollout


def weights(trainer: PpoTrainer) -> dict[str, torch.Tensor]:
    """Copies of all weights, critic included."""
    return {k: v.detach().clone() for k, v in trainer.actor.state_dict().items()}


def equal(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are equal, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
