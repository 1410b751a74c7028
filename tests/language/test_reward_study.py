"""Whole studies with a fine-tuned reward model: from the policy itself, from adapters, from an encoder of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

from encoders import save_encoder
from fixtures import llama, word_tokenizer
from tropism import Study
from tropism.engine.models import save_policy
from tropism.errors import ConfigError
from tropism.language.reward_network import LearnedReward

RECIPE = """
study.domain = "language"
model.path = "model"
world = { prompts = "prompts.jsonl", gold = "gold.py:few" }
"""
SMALL: dict[str, Any] = {
    "study.rounds": 1, "feedback.queries_per_round": 60, "ppo.steps": 2, "ppo.batch_size": 8, "ppo.mini_batch_size": 4,
    "ppo.epochs": 1, "ppo.critic_warmup_steps": 0, "evaluation.prompts": 8,
    "sampling.max_new_tokens": 4, "sft.demonstrations": 0, "runtime.threads": 1, "runtime.precision": "fp32",
    "reward.network": "classifier", "reward.epochs": 2, "reward.learning_rate": 1e-3, "reward.scale_samples": 16,
    "reward.micro_batch_tokens": 4096,
}  # fmt: skip
GOLD = """
def few(prompts, completions, rows):
    return [float(len(c.split())) for c in completions]
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "mine"
    folder.mkdir()
    save_policy(llama(scale=0.2), word_tokenizer("<eos>"), folder / "model")
    save_encoder("bert", folder / "encoder")
    prompts = [f"w{i % 60} w{(i * 7 + 3) % 60} w{i // 60}" for i in range(120)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
    (folder / "gold.py").write_text(GOLD)
    (folder / "study.toml").write_text(RECIPE)
    return folder


@pytest.mark.parametrize("base", ["policy", "adapters", "encoder"])
def test_a_round_with_a_fine_tuned_reward_model(base: str, mine: Path, tmp_path: Path) -> None:
    """Feedback, fit, PPO, evaluation and judge; ids are read where the tokenizer is the policy's (with pad = EOS)."""
    over: dict[str, Any] = {"policy": {}, "adapters": {"lora.rank": 2, "lora.save": "adapter"}}.get(base, {})
    if base == "encoder":
        over = {"reward.base": str(mine / "encoder")}
    with Study.create(tmp_path / "s", recipe=str(mine / "study.toml"), overrides=SMALL | over) as study:
        stages = {s.name: s for s in study.run().stages}
        values = stages["reward-1"].values
        folder = study.artifacts.path(stages["reward-1"].folders["reward"])
        assert values["assessment"]["validation"]["accuracy"]["pairs"] > 3
        assert values["rows_cut"] == 0
        reward = LearnedReward.load(folder)
        assert reward.exact == (base != "encoder")
        assert reward.scale is not None
        assert reward.scale.reference == "16 samples of the reference"
        plain = AutoModelForSequenceClassification.from_pretrained(folder)
        assert plain.config.num_labels == 1
        assert stages["improve-1"].values["steps"] == 2
        assert any("proxy" in name for name in stages["evaluate-1"].values["metrics"])
        before = values
    with Study.open(tmp_path / "s", overrides={"reward.center_coef": 0.1}) as again:
        after = {s.name: s.values for s in again.run().stages}["reward-1"]
    assert after["fit"] != before["fit"]


def test_one_member_disagrees_with_nobody(mine: Path, tmp_path: Path) -> None:
    """Asking where an ensemble disagrees needs one: an error, not queries chosen by nothing."""
    over = SMALL | {"feedback.selection": "disagreement", "study.rounds": 2, "evaluation.tolerance": 1.0}
    with (
        Study.create(tmp_path / "s", recipe=str(mine / "study.toml"), overrides=over) as study,
        pytest.raises(ConfigError, match=r"one member disagrees with nobody[\s\S]*reward\.members"),
    ):
        study.run()
