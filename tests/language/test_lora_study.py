"""Whole studies on a model of one's own: with adapters, merged and kept; with a chat template; their model cards."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from fixtures import llama, word_tokenizer
from tropism import Study
from tropism.digests import digest_folder
from tropism.engine.adapters import has_adapters
from tropism.engine.models import load_policy, save_policy
from tropism.errors import ConfigError, DataError, ModelError
from tropism.language.policy import LanguagePolicy

RECIPE = """
study.domain = "language"
model.path = "model"
world = { prompts = "prompts.jsonl", demonstrations = "demonstrations.jsonl" }
reward = { learned = false, functions = { "score.py:low" = 1.0 } }
"""
SMALL: dict[str, Any] = {
    "study.rounds": 2, "ppo.steps": 2, "ppo.batch_size": 8, "ppo.mini_batch_size": 4, "ppo.epochs": 1,
    "ppo.learning_rate": 1e-2, "ppo.critic_warmup_steps": 0, "evaluation.prompts": 8, "sampling.max_new_tokens": 4,
    "sft.steps": 6, "sft.batch_size": 8, "sft.learning_rate": 1e-2, "runtime.threads": 1, "runtime.precision": "fp32",
    "evaluation.tolerance": 1.0,
}  # fmt: skip
SCORE = """
def low(prompts, completions, rows):
    return [sum(1.0 for w in c.split() if w[:1] == "w" and int(w[1:]) < 30) for c in completions]
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "mine"
    folder.mkdir()
    save_policy(llama(scale=0.2), word_tokenizer(), folder / "model")
    prompts = [f"w{i % 60} w{(i * 7 + 3) % 60} w{i // 60}" for i in range(80)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
    shown = [{"prompt": p, "completion": f"w{i % 30} w{i % 7}"} for i, p in enumerate(prompts)]
    (folder / "demonstrations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shown))
    (folder / "score.py").write_text(SCORE)
    (folder / "chat.jinja").write_text(
        "{% for m in messages %}w5{{ 1 if m['role'] == 'user' else 2 }} {{ m['content'] }} <eos> {% endfor %}"
        "{% if add_generation_prompt %}w52 {% endif %}"
    )
    (folder / "study.toml").write_text(RECIPE)
    return folder


def ran(mine: Path, folder: Path, **over: Any) -> tuple[Study, dict[str, Any], dict[str, Path]]:
    """A finished study, its stages' values, its policies' folders."""
    dotted = {key.replace("__", "."): value for key, value in over.items()}
    study = Study.create(folder, recipe=str(mine / "study.toml"), overrides=SMALL | dotted)
    stages = study.run().stages
    folders = {s.name: study.artifacts.path(s.folders["policy"]) for s in stages if "policy" in s.folders}
    return study, {s.name: s.values for s in stages}, folders


def first_kl(study: Study, stage: str) -> float:
    return study.metrics.series("kl/ref_k1", stage)[0][2]


def test_merged_adapters_are_plain_models_in_every_round(mine: Path, tmp_path: Path) -> None:
    study, values, folders = ran(mine, tmp_path / "s", lora__rank=4)
    with study:
        assert list(folders) == ["base", "improve-1", "improve-2"]
        for folder in folders.values():
            assert not has_adapters(load_policy(folder)[0])
            AutoModelForCausalLM.from_pretrained(folder)
            assert AutoTokenizer.from_pretrained(folder)("w1")["input_ids"] == [5]
        assert first_kl(study, "improve-1") == 0.0
        assert first_kl(study, "improve-2") != 0.0  # from the policy of round 1, leashed to the base
        base, start = load_policy(folders["base"])[0], load_policy(mine / "model")[0]
        changed = {k for k, p in base.state_dict().items() if not torch.equal(p, start.state_dict()[k])}
        assert changed
        assert all(k.endswith("_proj.weight") for k in changed)
        assert values["base"]["sft"]["rows"] > 0


def test_kept_adapters_go_on_from_round_to_round(mine: Path, tmp_path: Path) -> None:
    study, _, folders = ran(mine, tmp_path / "s", lora__rank=4, lora__save="adapter")
    with study:
        for folder in folders.values():
            assert not (folder / "model.safetensors").exists()
            assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
                mine / "model"
            )
            assert has_adapters(load_policy(folder)[0])
        assert first_kl(study, "improve-1") == 0.0
        a, b = (load_file(folders[name] / "adapter_model.safetensors") for name in ("base", "improve-1"))
        assert a.keys() == b.keys()
        assert any(not torch.equal(a[k], b[k]) for k in a)
    again, _, repeated = ran(mine, tmp_path / "t", lora__rank=4, lora__save="adapter")
    with again:
        assert [digest_folder(p) for p in repeated.values()] == [digest_folder(p) for p in folders.values()]


def test_adapters_alone_need_a_base_that_stays(tmp_path: Path) -> None:
    over = {"lora.rank": 4, "lora.save": "adapter"}
    with pytest.raises(ConfigError, match=r"lora.save = \"adapter\", but the world makes the model"):
        Study.create(tmp_path / "s", recipe="tinytalk", overrides=over).run()


def test_a_changed_rank_makes_the_training_stages_anew(mine: Path, tmp_path: Path) -> None:
    study, values, _ = ran(mine, tmp_path / "s", study__rounds=1)
    study.close()
    with Study.open(tmp_path / "s", overrides={"lora.rank": 4}) as other:
        again = {s.name: s.values for s in other.run().stages}
    assert again["improve-1"]["last"] != values["improve-1"]["last"]


def test_a_chat_template_of_ones_own_is_used_and_saved(mine: Path, tmp_path: Path) -> None:
    study, _, folders = ran(
        mine, tmp_path / "s", model__chat="always", model__chat_template=str(mine / "chat.jinja"), study__rounds=1
    )
    with study:
        policy = LanguagePolicy.load(folders["improve-1"])
        assert policy.encode_task({"prompt": "w1"}) == [55, 5, 2, 56]
        assert (folders["improve-1"] / "chat_template.jinja").read_text() == (mine / "chat.jinja").read_text()
        before = study.status().stages[0].values
    with Study.open(tmp_path / "s") as opened:  # nothing is done again, unless the template changes
        assert opened.run().stages[0].values == before


def test_a_missing_template_is_named(mine: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the chat template .*gone.jinja cannot be read"):
        ran(mine, tmp_path / "s", model__chat="always", model__chat_template=str(mine / "gone.jinja"))


def test_every_policy_has_a_card_that_says_what_it_is(mine: Path, tmp_path: Path) -> None:
    study, values, folders = ran(mine, tmp_path / "s", lora__rank=4)
    with study:
        for name, folder in folders.items():
            text = (folder / "README.md").read_text()
            found = re.match(r"---\n(.*?)\n---\n", text, re.S)
            assert found
            assert yaml.safe_load(found[1])["pipeline_tag"] == "text-generation"
            assert str(tmp_path) not in text
            assert str(mine) not in text
            for heading in ("Data", "Reward", "KL to the reference", "Evaluation", "Limits", "Versions"):
                assert f"## {heading}\n" in text
            assert "LoRA of rank 4" in text
            assert f"of stage {name}" in text
            assert "prompts: prompts.jsonl" in text
        text = (folders["improve-2"] / "README.md").read_text()
        assert f"| sequence KL, mean of k1 (nats) | {values['improve-2']['last']['kl/ref_k1']:.4g} |" in text
        assert "low (Python), weight" in text


def test_prompts_that_are_chats_are_checked_before_anything_is_trained(mine: Path, tmp_path: Path) -> None:
    """Without a template they are refused at once; with one, a chat that leaves no room to answer is named."""
    rows = [
        {"prompt": f"w{i}", "messages": [{"role": "user", "content": f"w{i} " * (61 if i == 7 else 2)}]}
        for i in range(20)
    ]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    over: dict[str, Any] = {"world__prompts": str(tmp_path / "chats.jsonl"), "sft__demonstrations": 0}
    with pytest.raises(ModelError, match="the tokenizer has no chat template"):
        ran(mine, tmp_path / "a", **over)
    with pytest.raises(DataError, match=r"has 64 tokens; with sampling.max_new_tokens = 4 it leaves the context of 64"):
        ran(mine, tmp_path / "b", **over, model__chat_template=str(mine / "chat.jinja"))
