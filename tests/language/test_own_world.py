"""A text world of one's own in five lines: a Python reward, an oracle that knows the truth, pairs from a file; and
where the paths in settings are seen from.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from fixtures import llama, word_tokenizer
from tropism import Study
from tropism.cli.main import main
from tropism.engine.models import save_policy
from tropism.errors import TropismError
from tropism.feedback.events import FeedbackLog
from tropism.language.worlds.text import TextWorld
from tropism.store import schema

ROOT = Path(__file__).resolve().parents[2]
HEAD = 'study.domain = "language"\nmodel.path = "model"\n'
RECIPES = {
    "python": HEAD
    + 'world.prompts = "prompts.jsonl"\nreward = { learned = false, functions = { "score.py:low" = 1.0 } }\n',
    "oracle": HEAD + 'world = { prompts = "prompts.jsonl", gold = "score.py:low" }\n',
    "pairs": HEAD
    + 'world.prompts = "prompts.jsonl"\nfeedback = { teacher = "import", file = "pairs.jsonl" }\n'
    + 'reward.functions = { "score.py:brevity" = 0.1 }\n',
}
SMALL = {
    "study.rounds": 1, "ppo.steps": 2, "ppo.batch_size": 8, "ppo.mini_batch_size": 4, "ppo.epochs": 1,
    "evaluation.prompts": 8, "sampling.max_new_tokens": 4, "feedback.queries_per_round": 40, "reward.epochs": 2,
    "reward.scale_samples": 16, "reward.members": 2, "runtime.threads": 1,
}  # fmt: skip
SCORES = """
def brevity(prompts, completions, rows):
    return [-len(c.split()) / 4 for c in completions]
def low(prompts, completions, rows):
    return [sum(1.0 if int(w[1:]) < 30 else -1.0 for w in c.split() if w[:1] == "w") for c in completions]
"""
PROMPTS = [f"w{i % 60} w{(i * 7 + 3) % 60} w{i // 60}" for i in range(80)]


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user has it."""
    folder = tmp_path_factory.mktemp("own") / "mine"
    folder.mkdir()
    save_policy(llama(scale=0.1), word_tokenizer(), folder / "model")
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in PROMPTS))
    rows = [
        {"prompt": p, "chosen": f"w{i % 30} w{j}", "rejected": f"w{30 + i % 30} w{40 + j}"}
        for i, p in enumerate([*PROMPTS, *(f"w5 w{k} w9" for k in range(60))])
        for j in range(2)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "score.py").write_text(SCORES)
    for name, recipe in RECIPES.items():
        assert len(recipe.splitlines()) <= 5
        (folder / f"{name}.toml").write_text(recipe)
    return folder


def test_a_python_reward_alone_improves_the_policy(mine: Path, tmp_path: Path) -> None:
    """Words below w30 are paid: after a few steps there are more of them, on prompts that training never saw."""
    learning = SMALL | {
        "ppo.steps": 16, "ppo.batch_size": 32, "ppo.mini_batch_size": 16, "ppo.learning_rate": 3e-3, "ppo.epochs": 2,
        "ppo.kl_ref_coef": 0.01, "evaluation.prompts": 40, "sampling.max_new_tokens": 8, "ppo.warmup_steps": 0,
        "ppo.kl_old_stop": 10.0, "reward.missing_end_penalty": 0.0,
    }  # fmt: skip
    with Study.create(tmp_path / "s", recipe=str(mine / "python.toml"), overrides=learning) as study:
        status = study.run()
        assert [s.name for s in status.stages] == ["base", "improve-1", "evaluate-1", "decide-1"]
        metrics = status.stages[2].values["metrics"]
        assert metrics["reward_low_mean"] > metrics["reference_reward_low_mean"] + 1.5
        assert status.feedback["events"] == 0
        assert study.report().stat().st_size > 20_000


def test_an_oracle_with_a_gold_function_and_a_learned_reward(mine: Path, tmp_path: Path) -> None:
    with Study.create(tmp_path / "s", recipe=str(mine / "oracle.toml"), overrides=SMALL) as study:
        stages = {s.name: s.values for s in study.run().stages}
        assert stages["collect-1"]["answered"] == 40
        assert stages["reward-1"]["assessment"]["data"]["rows_validation"] == 8
        assert {"win_rate_gold", "proxy_mean", "gold_mean"} <= set(stages["evaluate-1"]["metrics"])
        low = {"w0": 1.0, "w29": 1.0, "w30": -1.0, "w59": -1.0}
        for row in study.samples(1):
            for answer in row["outputs"].values():
                words = [w for w in answer["text"].split() if w[:1] == "w"]
                assert answer["gold"] == sum(low.get(w, 1.0 if int(w[1:]) < 30 else -1.0) for w in words)
        for judged in FeedbackLog(study.database).judgements():
            gold = [sum(1 if int(w[1:]) < 30 else -1 for w in c.content["text"].split() if w[:1] == "w")
                    for c in judged.candidates]  # fmt: skip
            better = "a" if gold[0] > gold[1] else "b"
            assert judged.value["choice"] == better or gold[0] == gold[1]


def test_pairs_from_a_file_keep_the_splits_of_the_prompts(mine: Path, tmp_path: Path) -> None:
    with Study.create(tmp_path / "s", recipe=str(mine / "pairs.toml"), overrides=SMALL) as study:
        stages = {s.name: s.values for s in study.run().stages}
        world = TextWorld(mine / "prompts.jsonl")
        log = FeedbackLog(study.database)
        everything = log.judgements(("train", "validation", "test"))
        assert len(everything) == 280
        found = Counter(j.task.split for j in everything if j.task.payload["prompt"] in PROMPTS)
        assert found == Counter(s for p in PROMPTS for s in [world.split_of(p)] * 2)
        assert found["test"] > 10
        others = {j.task.payload["prompt"]: j.task.split for j in everything} | dict.fromkeys(PROMPTS, "test")
        share = sum(split == "validation" for p, split in others.items() if p not in PROMPTS) / 60
        assert 0.05 < share < 0.4  # feedback.validation_fraction = 0.2 of the prompts that the world does not have
        data = stages["reward-1"]["assessment"]["data"]
        assert data["rows_train"] + data["rows_validation"] == 280 - found["test"] == stages["collect-1"]["events"]
        components = study.rollouts(1)[0]["reward"]
        assert {"learned", "brevity"} <= set(components)


def test_a_path_is_seen_from_the_file_that_names_it(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with Study.create("s", recipe=os.path.relpath(mine / "pairs.toml"), overrides=SMALL) as study:
        domain = study.config.domain
        assert study.config.feedback.file == mine / "pairs.jsonl"
        assert domain.model.path == str(mine / "model")  # type: ignore[attr-defined]
        assert domain.world.prompts == str(mine / "prompts.jsonl")  # type: ignore[attr-defined]
        assert list(domain.reward.functions) == [f"{mine}/score.py:brevity"]  # type: ignore[attr-defined]
    monkeypatch.chdir("/")
    again = Study.open(elsewhere / "s").config
    assert again.values == study.config.values

    # --set is seen from the working directory, study.toml from the study's folder
    monkeypatch.chdir(mine)
    changed = Study.open(elsewhere / "s", overrides=["feedback.file=other/pairs.jsonl", "world.gold=score.py:low"])
    assert changed.config.feedback.file == mine / "other" / "pairs.jsonl"
    assert changed.config.domain.world.gold == f"{mine}/score.py:low"  # type: ignore[attr-defined]


def test_a_study_with_its_data_inside_can_be_moved(mine: Path, tmp_path: Path) -> None:
    study = tmp_path / "one"
    Study.create(study, overrides={**SMALL, "study.domain": "language"}).close()
    for name in ("prompts.jsonl", "score.py"):
        shutil.copy(mine / name, study / name)
    shutil.copytree(mine / "model", study / "model")
    lines = 'reward = { learned = false, functions = { "score.py:low" = 1.0 } }\n'
    (study / "study.toml").write_text(HEAD + 'world.prompts = "./prompts.jsonl"\n' + lines)
    small_settings = [f"{k}={v}" for k, v in SMALL.items() if not k.startswith(("reward", "feedback"))]
    with Study.open(study, overrides=small_settings) as opened:
        done = opened.run(until="improve-1")
        before = json.loads((study / "resolved.json").read_text())["config"]
    assert before["world"]["prompts"] == "prompts.jsonl"
    assert before["reward"]["functions"] == {"score.py:low": 1.0}
    study.rename(tmp_path / "two")
    with Study.open(tmp_path / "two", overrides=small_settings) as moved:
        assert moved.config.domain.model.path == str(tmp_path / "two" / "model")  # type: ignore[attr-defined]
        after = moved.run(until="improve-1")
    assert after.stages == done.stages  # with the seconds that they took then: nothing was done again


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_readmes_own_model_word_for_word(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], page: str
) -> None:
    """The recipe and the commands as they stand there; only smaller, by --set."""
    text = (ROOT / page).read_text("utf-8")
    (recipe,) = re.findall(r"```toml\n(.*?)```", text, re.S)
    commands = next(b for b in re.findall(r"```sh\n(.*?)```", text, re.S) if "tropism new" in b)
    shutil.copytree(mine / "model", tmp_path / "path" / "to" / "a" / "hugging-face" / "model")
    for name in ("prompts.jsonl", "pairs.jsonl", "score.py"):
        shutil.copy(mine / name, tmp_path / name)
    (tmp_path / "mine.toml").write_text(recipe)
    monkeypatch.chdir(tmp_path)
    for line in commands.strip().splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "tropism"
        if arguments[0] == "new":
            arguments += [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code in (0, None), capsys.readouterr().err
    assert (tmp_path / "my-study" / "report.html").is_file()


def test_the_text_recipe_says_what_is_missing_before_anything_is_trained(mine: Path, tmp_path: Path) -> None:
    steps = [
        (r"world\.prompts is not set", {}),
        ("has no feedback of its own", {"world.prompts": str(mine / "prompts.jsonl")}),
        (r"model\.path is not set", {"feedback.file": str(mine / "pairs.jsonl")}),
    ]
    given: dict[str, object] = dict(SMALL)
    for number, (problem, add) in enumerate(steps):
        given |= add
        with Study.create(tmp_path / str(number), "text", given) as study:
            with pytest.raises(TropismError, match=problem) as caught:
                study.run()
            assert caught.value.fix
            assert not [stage for stage in study.status().stages if stage.status == "done"]
    given["model.path"] = str(mine / "model")
    with Study.create(tmp_path / "s", "text", given) as study:
        study.run(until="collect-1")
        assert [s.name for s in study.status().stages if s.status == "done"] == ["base", "collect-1"]


def test_a_model_of_the_hub_is_named_by_its_commit(mine: Path, tmp_path: Path) -> None:
    """The hub's own cache, read offline: the name alone does not say which weights they were."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    place = tmp_path / "hub" / "models--someone--small"
    shutil.copytree(mine / "model", place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    overrides = {**SMALL, "model.path": "someone/small", "world.prompts": str(mine / "prompts.jsonl"),
                 "feedback.file": str(mine / "pairs.jsonl")}  # fmt: skip
    Study.create(tmp_path / "s", "text", overrides).close()
    command = "import sys; from tropism import Study; Study.open(sys.argv[1]).run(until='base')"
    offline = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", command, str(tmp_path / "s")], env=offline, timeout=120,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    with Study.open(tmp_path / "s") as study:
        assert study.status().stages[0].values["model_commit"] == commit
        with study.database.read() as connection:
            (values,) = connection.execute(sa.select(schema.policies.c["values"])).scalars()
        assert values["model_commit"] == commit
