"""Fine-tuned reward models: a planted preference is learned, by gradients that no micro-batch changes, and saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reward_cases import given
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from encoders import save_encoder
from fixtures import FP32, gpt2, llama, policy_of, word_tokenizer
from tropism.engine.adapters import LoraSettings
from tropism.engine.classifiers import load_classifier
from tropism.engine.models import save_policy
from tropism.errors import ConfigError, InterruptedRun
from tropism.feedback.records import Candidate, Judgement, Provenance, Query, Task
from tropism.language.classifier_reward import ClassifierNetwork, ClassifierScores
from tropism.language.config import RewardSection
from tropism.language.fit_reward import fit_learned_reward
from tropism.language.reward_network import LearnedReward
from tropism.language.reward_text import Answered
from tropism.reward.dataset import RewardData
from tropism.reward.likelihood import Links, evidence_nll
from tropism.runtime.stage import Made, StageRun
from tropism.settings.sections import check_section

LIKED = 7


def save_decoder(folder: Path, model: Any = None, pad: str = "<pad>") -> Path:
    save_policy(llama(scale=0.1) if model is None else model, word_tokenizer(pad), folder)
    return folder


BASES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "decoder": (save_decoder, "w"),
    "pad is eos": (lambda folder: save_decoder(folder, pad="<eos>"), "w"),
    "encoder": (lambda folder: save_encoder("bert", folder), "v"),
}


def judgements(word: str = "w", tasks: int = 120, seed: int = 0, **payload: Any) -> list[Judgement]:
    """Pairs of answers, one with the liked word somewhere in it; a quarter of the tasks is held out."""
    random = torch.Generator().manual_seed(seed)
    made = []
    for number in range(tasks):
        task = Task("validation" if number % 4 == 3 else "train", {"prompt": f"{word}{number % 50}", "n": number})
        texts = []
        for liked in (True, False):
            ids = torch.randint(10, 60, (int(torch.randint(2, 7, (), generator=random)),), generator=random).tolist()
            ids[int(torch.randint(0, len(ids), (), generator=random))] = LIKED if liked else LIKED + 1
            texts.append(" ".join(f"{word}{i}" for i in ids))
        first = number % 2 == 0
        pair = texts if first else texts[::-1]
        candidates = tuple(Candidate(task.id, "text", {"text": t}, Provenance("p")) for t in pair)
        query = Query(task.id, "comparison", tuple(c.id for c in candidates), (0, 1), 0)
        value = {"choice": "a" if first else "b"}
        made.append(Judgement(f"e{number}", "t", query, task, candidates, value, teacher_kind="oracle"))
    return made


def settings(**over: Any) -> RewardSection:
    base: dict[str, Any] = {
        "network": "classifier", "epochs": 4, "batch_size": 16, "learning_rate": 2e-3, "head_learning_rate": 1e-2,
        "judge": False, "micro_batch_tokens": 1024,
    }  # fmt: skip
    return RewardSection(**(base | over))


def fitted(folder: Path, base: Path, word: str = "w", tasks: int = 120, **over: Any) -> Made:
    run = StageRun("reward-1", folder / "run", 5)
    return fit_learned_reward(base, judgements(word, tasks), settings(**over), FP32, run)


@pytest.mark.parametrize("kind", BASES)
def test_a_planted_preference_is_learned_and_held_out_votes_agree(kind: str, tmp_path: Path) -> None:
    """From a base alone: no study, no policy to sample from. What was fitted is what plain transformers loads."""
    save, word = BASES[kind]
    made = fitted(tmp_path, save(tmp_path / "base"), word, epochs=7)
    history = made.values["fit"]["history"]
    assert history[-1]["reward/nll_train"] < 0.6 * history[0]["reward/nll_train"]
    validation = made.values["assessment"]["validation"]
    assert validation["accuracy"]["value"] > 0.8
    assert validation["accuracy"]["pairs"] == 30
    assert any("score" in name or "classifier" in name for name in made.values["fresh"])
    folder = made.folders["reward"]
    card = (folder / "README.md").read_text()
    assert 'pipeline_tag: "text-classification"' in card
    assert "held-out accuracy" in card
    assert str(tmp_path) not in card
    reward = LearnedReward.load(folder)
    texts = (f"{word}{LIKED} {word}20", f"{word}30")
    rows = [Answered({"prompt": f"{word}1"}, text, True) for text in texts]
    ours = reward.member_scores(rows)
    assert ours[0, 0] > ours[0, 1]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if kind == "encoder":
        batch = tokenizer(
            [r.payload["prompt"] for r in rows], [r.text for r in rows], padding=True, return_tensors="pt"
        )
    else:
        batch = tokenizer([f"{word}1 {text} <eos>" for text in texts], padding=True, return_tensors="pt")
        batch.pop("token_type_ids", None)
    with torch.no_grad():
        plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()(**batch).logits
    assert plain.shape == (2, 1)
    torch.testing.assert_close(plain[:, 0], ours[0], atol=5e-6, rtol=5e-6)


def test_without_a_reference_the_scale_is_frozen_on_the_train_candidates(tmp_path: Path) -> None:
    made = fitted(tmp_path, save_decoder(tmp_path / "base"), tasks=40, epochs=1)
    scale = json.loads((made.folders["reward"] / "scale.json").read_text())
    assert (scale["samples"], scale["reference"]) == (60, "60 train candidates, for want of a reference")
    reward = LearnedReward.load(made.folders["reward"])
    train = [Answered.of(j.task, c) for j in judgements(tasks=40) if j.task.split == "train" for c in j.candidates]
    scores = reward.combine(reward.member_scores(train))
    assert float(scores.mean()) == pytest.approx(0, abs=1e-4)
    assert float(scores.std(correction=0)) == pytest.approx(1, abs=1e-4)
    samples = ([j.task for j in judgements(tasks=20)], [[given("w3 w4 w5"[: 2 + i % 7])] for i in range(20)])
    run = StageRun("reward-2", tmp_path / "again", 5)
    again = fit_learned_reward(
        tmp_path / "base", judgements(tasks=40), settings(epochs=1), FP32, run, scale_set=samples
    )
    assert (
        json.loads((again.folders["reward"] / "scale.json").read_text())["reference"] == "20 samples of the reference"
    )


def scores_of(base: Path, micro: int, members: int = 2) -> tuple[ClassifierScores, RewardData]:
    data = RewardData.from_judgements(judgements(tasks=12))
    network = ClassifierNetwork(load_classifier(base, members, seed=1), FP32)
    rows = [Answered.of(data.tasks[int(t)], c) for c, t in zip(data.candidates, data.candidate_task, strict=True)]
    return ClassifierScores(network, network.reader.read(rows, network.context, False), micro), data


def gradients(base: Path, micro: int) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of a batch's loss, and the bytes of the activations that were kept for it."""
    model, data = scores_of(base, micro)
    kept = 0
    own = {p.data_ptr() for p in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += 0 if tensor.data_ptr() in own else tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = evidence_nll(model, Links(2, data), data, 12.0, center_coef=0.1)
    loss.sum().backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, kept


def test_gradients_do_not_depend_on_the_micro_batch_and_memory_does(tmp_path: Path) -> None:
    base = save_decoder(tmp_path)
    (whole, most), (ones, least), (some, _) = (gradients(base, micro) for micro in (10_000, 1, 60))
    assert "model.score.weight" in whole
    for other in (ones, some):
        assert other.keys() == whole.keys()
        for name, gradient in whole.items():
            torch.testing.assert_close(other[name], gradient, atol=5e-6, rtol=1e-4)
    assert least < most / 10


def test_dropout_of_the_second_forward_is_that_of_the_first(tmp_path: Path) -> None:
    """With dropout, a loss and its gradient must speak of the same network: finite differences along the gradient."""
    model, data = scores_of(save_decoder(tmp_path, gpt2(dropout=0.3)), micro=3)
    model.train()

    def loss() -> torch.Tensor:
        torch.manual_seed(3)
        return evidence_nll(model, Links(2, data), data, 12.0).sum()

    model.double()
    model.network.precision = FP32
    value = loss()
    value.backward()
    head = model.model.score.weight
    assert head.grad is not None
    step = 1e-4 * head.grad / head.grad.norm()
    with torch.no_grad():
        head.add_(step)
        up = float(loss())
        head.sub_(2 * step)
        down = float(loss())
    assert (up - down) / 2e-4 == pytest.approx(float(head.grad.norm()), rel=1e-2)


def test_head_and_trunk_learn_at_their_own_rates(tmp_path: Path) -> None:
    base = save_decoder(tmp_path / "base")
    start = load_classifier(base, 1, seed=5).model.state_dict()
    made = fitted(tmp_path, base, tasks=24, epochs=1, learning_rate=1e-12, head_learning_rate=1e-2, weight_decay=0.0)
    end = load_classifier(made.folders["reward"]).model.state_dict()
    moved = {name: float((end[name] - tensor).abs().max()) for name, tensor in start.items()}
    assert moved.pop("score.weight") > 1e-3
    assert max(moved.values()) < 1e-9


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_adapters_and_the_head_learn_and_are_merged(kind: str, tmp_path: Path) -> None:
    """Nothing else moves while fitting; what is saved is one plain model that scores as the fitted one did."""
    save, word = BASES[kind]
    base = save(tmp_path / "base")
    start = load_classifier(base, 1, seed=5)
    made = fitted(
        tmp_path, base, word, epochs=8, learning_rate=1e-2, lora=LoraSettings(rank=4, alpha=8), weight_decay=0.0
    )
    assert made.values["assessment"]["validation"]["accuracy"]["value"] > 0.8
    end = load_classifier(made.folders["reward"])
    assert end.fresh == ()
    before, after = start.model.state_dict(), end.model.state_dict()
    assert before.keys() == after.keys()
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert start.head <= moved
    assert all(name in start.head or name.endswith("weight") for name in moved)
    embeddings = {name for name in before if "embed" in name}
    assert embeddings
    assert not embeddings & moved
    checkpoints = list((tmp_path / "run" / "checkpoints").rglob("tensors.safetensors"))
    kept = {k for c in checkpoints for k in load_file(c) if k.startswith("now.model.")}
    assert kept
    assert all(".lora_" in k or k.removeprefix("now.model.model.") in start.head for k in kept)


def test_settings_of_adapters_that_mean_nothing_are_refused() -> None:
    for wrong in ({"network": "frozen", "lora": {"rank": 4}}, {"lora": {"rank": 4, "save": "adapter"}}):
        with pytest.raises(ConfigError, match=r"lora\."):
            check_section(RewardSection, "reward", {"network": "classifier"} | wrong)


def test_several_heads_are_an_ensemble_in_one_folder(tmp_path: Path) -> None:
    made = fitted(tmp_path, save_decoder(tmp_path / "base"), tasks=60, members=3, epochs=2)
    config = json.loads((made.folders["reward"] / "config.json").read_text())
    assert len(config["id2label"]) == 3
    reward = LearnedReward.load(made.folders["reward"])
    raw = reward.member_scores([Answered({"prompt": "w1"}, f"w{i}", True) for i in range(10)])
    assert raw.shape == (3, 10)
    assert (raw[0] - raw[1]).abs().max() > 1e-3  # each weighs tasks by draws of its own


def test_rows_that_do_not_fit_are_cut_counted_and_still_count(tmp_path: Path) -> None:
    made = fitted(tmp_path, save_decoder(tmp_path / "base"), tasks=24, epochs=1, max_tokens=8)
    longest = [len(str(c.content["text"]).split()) + 2 for j in judgements(tasks=24) for c in j.candidates]
    assert made.values["rows_cut"] == made.values["assessment"]["data"]["rows_cut"] == sum(n > 8 for n in longest)
    assert made.values["data"]["candidates"] == 48  # none is missing
    whole = fitted(tmp_path / "whole", tmp_path / "base", tasks=24, epochs=1)
    assert whole.values["rows_cut"] == 0


def test_a_judge_is_fitted_on_held_out_votes_and_differs(tmp_path: Path) -> None:
    made = fitted(tmp_path, save_decoder(tmp_path / "base"), tasks=100, epochs=2, judge=True)
    rows = [Answered({"prompt": "w1"}, f"w{i}", True) for i in range(6)]
    reward, judge = (LearnedReward.load(made.folders["reward"] / part) for part in (".", "judge"))
    assert not torch.allclose(reward.member_scores(rows), judge.member_scores(rows))
    assert (made.folders["reward"] / "judge" / "config.json").is_file()


def test_a_fit_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    base, votes = save_decoder(tmp_path / "base", gpt2(dropout=0.2)), judgements(tasks=40)
    chosen = settings(epochs=3, batch_size=8)
    whole = fit_learned_reward(base, votes, chosen, FP32, StageRun("r", tmp_path / "whole", 5))
    calls = iter(range(1000))
    stopping = StageRun("r", tmp_path / "cut", 5, stop_requested=lambda: next(calls) >= 5)
    with pytest.raises(InterruptedRun):
        fit_learned_reward(base, votes, chosen, FP32, stopping)
    again = fit_learned_reward(base, votes, chosen, FP32, replace(stopping, stop_requested=lambda: False))
    for name in ("model.safetensors", "scale.json", "reward.json", "assessment.json"):
        assert (whole.folders["reward"] / name).read_bytes() == (again.folders["reward"] / name).read_bytes(), name


def test_sampled_ids_are_read_beside_a_policy_with_the_same_tokenizer(tmp_path: Path) -> None:
    """A policy's own samples, with ids that no text gives (<unk>); a base with another tokenizer reads their text."""
    policy = policy_of(llama())
    votes = []
    for vote in judgements(tasks=40):
        ids = [[3, *policy.encode_completion(str(c.content["text"]))] for c in vote.candidates]
        made = tuple(
            Candidate(c.task_id, "text", {**c.content, "tokens": i}, Provenance("p"))
            for c, i in zip(vote.candidates, ids, strict=True)
        )
        query = replace(vote.query, candidate_ids=tuple(c.id for c in made))
        votes.append(replace(vote, candidates=made, query=query))
    exact = {}
    bases = {"same": save_decoder(tmp_path / "same"), "other": save_encoder("bert", tmp_path / "other")}
    for name, base in bases.items():
        run = StageRun("r", tmp_path / f"run {name}", 5)
        made_by = fit_learned_reward(base, votes, settings(epochs=1), FP32, run, policy=policy.tokenizer)
        reward = LearnedReward.load(made_by.folders["reward"])
        exact[name] = reward.exact
        with_ids, without = (
            reward.score_candidates([votes[0].task], [[replace(votes[0].candidates[0], content=c)]])
            for c in (votes[0].candidates[0].content, {"text": votes[0].candidates[0].content["text"]})
        )
        assert bool((with_ids - without).abs().max() > 1e-4) == reward.exact
    assert exact == {"same": True, "other": False}
