"""Each job from files to a folder that plain transformers loads; refused input; nothing written by a plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from job_cases import COLUMNS
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from tropism.errors import ConfigError, DataError, StoreError, TropismError
from tropism.jobs import evaluate, ppo, reward_assess, reward_fit, sample, sft
from tropism.jobs.config import resolve

PPO = {
    "ppo.steps": 3,
    "ppo.batch_size": 16,
    "ppo.mini_batch_size": 8,
    "ppo.critic_warmup_steps": 1,
    "sampling.max_new_tokens": 24,
}


@pytest.fixture(scope="module")
def reward(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier fitted on the example pairs."""
    out = tmp_path_factory.mktemp("reward") / "reward"
    flags = {"model.path": str(files / "my-model"), "data.source": str(files / "pairs.csv"), "data.columns": COLUMNS}
    values = reward_fit.run(
        resolve(reward_fit.RewardFitConfig, flags, {"reward.epochs": 6, "reward.learning_rate": 1e-3}), out
    )
    assert values["assessment"]["validation"]["accuracy"]["value"] > 0.7
    assert values["judgements"]["teachers"] == 3
    return out


def ppo_config(tuned: Path, files: Path, reward: Path, **over: Any) -> ppo.PpoConfig:
    flags = {
        "model.path": str(tuned),
        "prompts.source": str(files / "prompts.jsonl"),
        "rewards.models": {str(reward): 1.0},
    }
    return resolve(ppo.PpoConfig, flags, PPO | over)


def test_sft_makes_a_plain_folder_with_a_card(tuned: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tuned), AutoTokenizer.from_pretrained(tuned)
    ids = tokenizer("Monday, Where is the park?", return_tensors="pt")["input_ids"]
    answer = tokenizer.decode(model.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :])
    assert "park" in answer
    card = (tuned / "README.md").read_text()
    assert "loss on held-out rows after" in card
    assert str(tuned.parent) not in card
    assert json.loads((tuned / "run" / "result.json").read_text())["data"]["rows"] == 200


def test_a_reward_model_is_a_plain_classifier_with_its_scale_and_card(reward: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(reward)
    assert model.config.num_labels == 1
    for name in ("scale.json", "reward.json", "assessment.json", "README.md"):
        assert (reward / name).is_file()
    assert "held-out accuracy" in (reward / "README.md").read_text()


def test_ppo_pays_with_the_reward_model_and_leaves_rollouts(
    tuned: Path, files: Path, reward: Path, tmp_path: Path
) -> None:
    values = ppo.run(ppo_config(tuned, files, reward), tmp_path / "policy")
    assert values["steps"] == 3
    assert values["first"]["kl_sequence"] == pytest.approx(0.0, abs=1e-4)
    assert abs(values["last"]["kl_sequence"]) > 1e-6
    rows = [json.loads(line) for line in (tmp_path / "policy/rollouts/step-00000.jsonl").read_text().splitlines()]
    assert len(rows) == 16
    assert set(rows[0]["reward"]) == {"reward", "missing_end"}
    AutoModelForCausalLM.from_pretrained(tmp_path / "policy")


def test_ppo_of_adapters_measures_its_kl_to_the_model_with_adapters_off(
    tuned: Path, files: Path, reward: Path, tmp_path: Path
) -> None:
    config = ppo_config(tuned, files, reward, **{"lora.rank": 4, "lora.save": "adapter"})
    values = ppo.run(config, tmp_path / "policy")
    assert values["first"]["kl_sequence"] == pytest.approx(0.0, abs=1e-4)
    assert (tmp_path / "policy" / "adapter_model.safetensors").is_file()
    texts = ["Monday, Where is the park?"]
    assert sample.run(resolve(sample.SampleConfig, {"model.path": str(tmp_path / "policy"), "texts": texts}))


def test_python_functions_pay_alone_or_beside_models(tuned: Path, files: Path, tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(
        "def brevity(prompts, completions, rows):\n    return [-len(c) for c in completions]\n"
    )
    flags = {"model.path": str(tuned), "prompts.source": str(files / "prompts.jsonl")}
    over = PPO | {"rewards.functions": {str(tmp_path / "score.py") + ":brevity": 0.01}}
    values = ppo.run(resolve(ppo.PpoConfig, flags, over), tmp_path / "policy")
    assert values["first"]["score"] < 0
    with pytest.raises(ConfigError, match="no reward is named"):
        ppo.run(resolve(ppo.PpoConfig, flags, PPO), tmp_path / "other")


def test_evaluate_of_a_model_with_itself_is_a_draw(tuned: Path, files: Path, reward: Path, tmp_path: Path) -> None:
    flags = {
        "model.path": str(tuned),
        "reference.path": str(tuned),
        "prompts.source": str(files / "prompts.jsonl"),
        "judges.models": {str(reward): 1.0},
    }
    over = {"sampling.max_new_tokens": 24, "evaluation.prompts": 20}
    values = evaluate.run(resolve(evaluate.EvaluateConfig, flags, over), tmp_path / "evaluation")
    assert values["metrics"]["win_rate"] == 0.5
    assert values["metrics"]["kl_sequence"] == 0.0
    assert json.loads((tmp_path / "evaluation/evaluation.json").read_text())["prompts"]["answered"] == 20
    assert len((tmp_path / "evaluation/samples/samples.jsonl").read_text().splitlines()) == 20


def test_samples_are_the_same_again_and_written_whole(tuned: Path, reward: Path, tmp_path: Path) -> None:
    flags = {"model.path": str(tuned), "texts": ["Monday, Where is the park?"], "rewards.models": {str(reward): 1.0}}
    config = resolve(sample.SampleConfig, flags, {"number": 3})
    rows = sample.run(config, tmp_path / "samples.jsonl")
    assert rows == sample.run(config)
    assert [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()] == rows
    assert len({row["completion"] for row in rows}) > 1
    with pytest.raises(DataError, match="exists already"):
        sample.run(config, tmp_path / "samples.jsonl")


def test_plans_write_nothing_and_know_the_sizes(tuned: Path, files: Path, reward: Path, tmp_path: Path) -> None:
    out, base = tmp_path / "out", {"model.path": str(tuned), "data.source": str(files / "demos.jsonl")}
    lines = dict(sft.plan(resolve(sft.SftConfig, base, {"sft.epochs": 2}), out).lines)
    assert lines["steps"] == "10 of 32 rows"
    assert "271k parameters" in lines["model"]
    assert "measured on 3 of 10" in lines["time"]
    assert ppo.plan(ppo_config(tuned, files, reward), out).seconds
    fit = {"model.path": str(tuned), "data.source": str(files / "pairs.csv"), "data.columns": COLUMNS}
    assert dict(reward_fit.plan(resolve(reward_fit.RewardFitConfig, fit), out).lines)["kinds"] == "150 comparison"
    assert list(tmp_path.iterdir()) == []


def test_long_prompts_are_cut_from_the_left_and_counted(tuned: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "Monday, Where is the park? " * 60 + str(i)} for i in range(3)] + [{"prompt": "Hello?"}]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "score.py").write_text(
        "def one(prompts, completions, rows):\n    return [len(c) for c in completions]\n"
    )
    flags = {"model.path": str(tuned), "prompts.source": str(prompts)}
    over = PPO | {"ppo.steps": 1, "rewards.functions": {str(tmp_path / "score.py") + ":one": 1.0}}
    values = ppo.run(resolve(ppo.PpoConfig, flags, over), tmp_path / "policy")
    assert values["prompts"]["cut"] == 3


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_bad_rows_stop_a_job_before_anything_is_made_unless_skipped(files: Path, tmp_path: Path) -> None:
    good = [{"prompt": f"q{i}", "completion": "yes"} for i in range(40)]
    source = write(tmp_path / "rows.jsonl", *good, {"prompt": "q"}, {"prompt": 3, "completion": "x"})
    flags = {"model.path": str(files / "my-model"), "data.source": source, "data.format": "demonstrations"}
    with pytest.raises(DataError, match=r"(?s)2 of 42 rows.*line 41: .*line 42: ") as caught:
        sft.run(resolve(sft.SftConfig, flags), tmp_path / "out")
    assert "--skip-bad" in caught.value.fix
    assert not (tmp_path / "out").exists()
    config = resolve(sft.SftConfig, flags | {"data.skip_bad": True}, {"sft.epochs": 0.2})
    assert sft.run(config, tmp_path / "out")["data"]["rejected"] == 2


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({"data.source": "demos.jsonl"}, "--model"),
    "no data": ({"model.path": "my-model"}, "--data"),
    "no such model": ({"model.path": "nowhere/at/all", "data.source": "demos.jsonl"}, "nowhere/at/all"),
    "no such data": ({"model.path": "my-model", "data.source": "none.jsonl"}, "none.jsonl"),
    "unknown key": ({"sft.learning_rat": 1.0}, "learning_rate"),
    "pairs are no demonstrations": (
        {"model.path": "my-model", "data.source": "pairs.csv", "data.columns": COLUMNS},
        "no demonstration",
    ),
    "all is held out": (
        {"model.path": "my-model", "data.source": "demos.jsonl", "data.validation_share": 1.0},
        "validation_share",
    ),
    "adapters of modules that are not there": (
        {"model.path": "my-model", "data.source": "demos.jsonl", "lora.rank": 2, "lora.targets": ["q_prj"]},
        "q_proj",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_done_is_said_with_the_fix(
    name: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags, told = CASES[name]
    monkeypatch.chdir(files)
    with pytest.raises(TropismError) as caught:
        sft.run(resolve(sft.SftConfig, {}, flags), tmp_path / "out")
    assert told in f"{caught.value.problem} {caught.value.fix}"
    assert caught.value.fix


def test_any_reward_model_is_assessed_on_data_it_has_not_seen(files: Path, reward: Path, tmp_path: Path) -> None:
    flags = {"reward.path": str(reward), "data.source": str(files / "held-out.csv"), "data.columns": COLUMNS}
    config = resolve(reward_assess.RewardAssessConfig, flags)
    values = reward_assess.run(config, tmp_path / "assessment.json")
    found = values["assessment"]
    assert found["validation"]["accuracy"]["pairs"] == 60
    assert found["validation"]["accuracy"]["value"] > 0.6
    assert set(found["by_teacher"]) == {"ann", "bo", "cy"}
    assert found["validation"]["length_only"] is not None
    assert json.loads((tmp_path / "assessment.json").read_text()) == json.loads(json.dumps(values))
    elsewhere = AutoModelForSequenceClassification.from_pretrained(reward)
    elsewhere.save_pretrained(tmp_path / "elsewhere")
    AutoTokenizer.from_pretrained(reward).save_pretrained(tmp_path / "elsewhere")
    foreign = reward_assess.run(
        resolve(reward_assess.RewardAssessConfig, flags | {"reward.path": str(tmp_path / "elsewhere")})
    )
    assert 0 <= foreign["assessment"]["validation"]["accuracy"]["value"] <= 1


def test_rankings_of_k_are_assessed_by_top_1_and_tau(reward: Path, tmp_path: Path) -> None:
    rows = [
        {
            "prompt": f"q{i}",
            "completions": ["Gladly: it is left.", "It is left.", "Ask someone else."],
            "ranks": [1, 2, 3],
        }
        for i in range(12)
    ]
    flags = {"reward.path": str(reward), "data.source": write(tmp_path / "ranked.jsonl", *rows)}
    found = reward_assess.run(resolve(reward_assess.RewardAssessConfig, flags))["assessment"]["rankings"]
    assert found["rows"] == 12
    assert found["top1_chance"] == pytest.approx(1 / 3)
    assert -1 <= found["tau"]["value"] <= 1


def test_candidates_without_texts_are_refused(reward: Path, tmp_path: Path) -> None:
    head = "srclang,trglang,srcIndex,segmentId,judgeID,system1Id,system1rank,system2Id,system2rank,rankingID\n"
    (tmp_path / "wmt.csv").write_text(head + "tur,eng,1,1,j1,a,1,b,2,7\n")
    flags = {"reward.path": str(reward), "data.source": str(tmp_path / "wmt.csv"), "data.format": "wmt"}
    with pytest.raises(DataError, match="has no text"):
        reward_assess.run(resolve(reward_assess.RewardAssessConfig, flags))


def test_our_own_exports_are_read_as_they_were_written(files: Path, tmp_path: Path) -> None:
    from tropism.data import Record
    from tropism.data.exporting import export
    from tropism.jobs.config import DataSection
    from tropism.jobs.inputs import read_data

    value = {"kind": "comparison", "choice": "a", "strength": 0}
    texts = ({"text": "=1+1"}, {"text": "'two"})
    export([Record("+ what?", texts, value, kind="comparison")], tmp_path / "pairs.csv", "pairs")
    (record,) = read_data(DataSection(source=str(tmp_path / "pairs.csv"))).records
    assert record.prompt == "+ what?"
    assert [c["text"] for c in record.candidates] == ["=1+1", "'two"]


FUNCTIONS = {
    "nofile.py:f": "does not exist",
    "score.py": "names no function",
    "score.py:nothere": "it has: boom",
    "nosuchmodule:f": "cannot be imported",
    "score.py:boom": "raised ZeroDivisionError",
}


@pytest.mark.parametrize("reference", FUNCTIONS)
def test_functions_that_are_not_there_or_fail_are_named(
    reference: str, tuned: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "score.py").write_text("def boom(prompts, completions, rows):\n    return [1 / 0]\n")
    monkeypatch.chdir(tmp_path)
    prompts = {"prompts.source": str(files / "prompts.jsonl")}
    paid = resolve(ppo.PpoConfig, {"model.path": str(tuned)} | prompts, PPO | {"rewards.functions": {reference: 1.0}})
    flags = {"model.path": str(tuned), "reference.path": str(tuned), "judges.gold": reference}
    told = resolve(evaluate.EvaluateConfig, flags | prompts, {"sampling.max_new_tokens": 4, "evaluation.prompts": 8})
    for job in (lambda: ppo.run(paid, tmp_path / "policy"), lambda: evaluate.run(told, tmp_path / "evaluation")):
        with pytest.raises(TropismError) as caught:
            job()
        assert FUNCTIONS[reference] in f"{caught.value.problem} {caught.value.fix}"


def test_demonstrations_are_nothing_to_assess_on(files: Path, reward: Path) -> None:
    flags = {"reward.path": str(reward), "data.source": str(files / "demos.jsonl")}
    with pytest.raises(DataError, match="was read as demonstrations and holds no judgement to assess on"):
        reward_assess.run(resolve(reward_assess.RewardAssessConfig, flags))


def test_a_file_that_cannot_be_written_is_named(tuned: Path, files: Path, reward: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    out = tmp_path / "file" / "out.json"
    config = resolve(sample.SampleConfig, {"model.path": str(tuned), "texts": ["Monday."]})
    with pytest.raises(StoreError, match=r"file/out\.json cannot be written"):
        sample.run(config, out)
    flags = {"reward.path": str(reward), "data.source": str(files / "held-out.csv"), "data.columns": COLUMNS}
    with pytest.raises(StoreError, match=r"file/out\.json cannot be written"):
        reward_assess.run(resolve(reward_assess.RewardAssessConfig, flags), out)
    assert (tmp_path / "file").read_text() == "x"
