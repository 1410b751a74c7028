"""Bad settings, prompts, models and reward functions: named with their fix before anything is made, or as soon as they
show; after mending, the same command goes on.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from bad_input_cases import SMALL, check_refusal, cli, contents, own_world, refused, settings
from transformers import BertConfig, BertForMaskedLM

from fixtures import word_tokenizer
from tropism.engine.models import save_policy
from tropism.study.study import Study

Text = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own_world(tmp_path_factory.mktemp("bad") / "mine")


def python_reward(world: Path, function: str = "score.py:brevity") -> str:
    """A recipe without learned reward, as a file's text."""
    return (
        f'study.domain = "language"\nmodel.path = "{world / "model"}"\nworld.prompts = "{world / "prompts.jsonl"}"\n'
        f'reward = {{ learned = false, functions = {{ "{function}" = 1.0 }} }}\n'
    )


def new(capsys: Text, folder: Path, recipe: str, *changes: str) -> Path:
    """A study made by ``tropism new`` from a recipe file that lies beside it."""
    (folder / "mine.toml").write_text(recipe)
    study = folder / "study"
    arguments = ["new", study, "--recipe", folder / "mine.toml", *settings([*SMALL, *changes])]
    status, out, err = cli(capsys, *arguments)
    assert (status, err) == (0, ""), out
    return study


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("ppo.setps=3", ["'ppo.setps'", "did you mean 'steps'?"]),
        ("pppo.steps=3", ["'pppo'", "did you mean 'ppo'?"]),
        ("feedback.oracle.rationalty=1", ["did you mean 'rationality'?"]),
        ("ppo.steps=many", ['ppo.steps = "many"', "integer"]),
        ("ppo.steps=2.5", ["ppo.steps = 2.5"]),
        ("ppo.steps=-1", ["ppo.steps = -1"]),
        ("ppo.gamma=nan", ["ppo.gamma"]),
        ("ppo.learning_rate=inf", ["ppo.learning_rate = inf is not a finite number"]),
        ("ppo.kl_ref_coef=nan", ["ppo.kl_ref_coef = nan"]),
        ("reward.learned=yes", ['reward.learned = "yes"', "boolean"]),
        ("reward.functions=score.py:brevity", ["reward.functions"]),
        ("ppo=3", ["ppo = 3"]),
        ("study=3", ["study = 3 is not a section"]),
        ("study.domain=langauge", ["did you mean 'language'?"]),
        ("feedback.teacher=impor", ["feedback.teacher", "import"]),
        ("feedback.file=pairs.jsonl", ['teacher = "oracle" reads no file']),
        ("ppo.mini_batch_size=999", ["mini_batch_size 999 is larger than batch_size"]),
        ("feedback.queries_per_round=1", ["feedback.queries_per_round = 1", "greater than or equal to 2"]),
        ("runtime.threads=100000", ["runtime.threads = 100000"]),
        ("nonsense", ["is not KEY=VALUE"]),
        ("recipe=nothing", ["'nothing'"]),
    ],
)
def test_bad_settings_make_no_study(capsys: Text, tmp_path: Path, change: str, says: list[str]) -> None:
    refused(capsys, tmp_path, says, "new", tmp_path / "study", "--set", change)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("change", "says"), [("ppo.setps=3", "'ppo.setps'"), ("ppo.steps=many", '"many"')])
def test_bad_settings_stop_a_run_before_it_begins(
    capsys: Text, world: Path, tmp_path: Path, change: str, says: str
) -> None:
    study = new(capsys, tmp_path, python_reward(world, f"{world}/score.py:brevity"))
    refused(capsys, study, [says], "run", study, "--set", change)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[study\n", ["study.toml is not valid TOML", "line 1"]),
        (b"name = \xff\n", ["study.toml is not UTF-8"]),
        (b"", ["study.domain is missing"]),
        (b"study = 1\nstudy = 2\n", ["not valid TOML"]),
    ],
)
def test_a_study_toml_that_cannot_be_read(
    capsys: Text, world: Path, tmp_path: Path, content: bytes, says: list[str]
) -> None:
    study = new(capsys, tmp_path, python_reward(world, f"{world}/score.py:brevity"))
    (study / "study.toml").write_bytes(content)
    for command in ("run", "status", "report", "gc"):
        refused(capsys, study, says, command, study)


def test_a_recipe_file_that_cannot_be_read(capsys: Text, tmp_path: Path) -> None:
    for name, content in (("a.toml", b"[x\n"), ("b.toml", b"\xff = 1\n")):
        (tmp_path / name).write_bytes(content)
        refused(capsys, tmp_path, [name], "new", tmp_path / "s", "--recipe", tmp_path / name)
    refused(capsys, tmp_path, ["c.toml cannot be read"], "new", tmp_path / "s", "--recipe", tmp_path / "c.toml")
    (tmp_path / "d.toml").mkdir()
    refused(capsys, tmp_path, ["d.toml cannot be read"], "new", tmp_path / "s", "--recipe", tmp_path / "d.toml")


def test_folders_that_are_no_study(capsys: Text, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    refused(capsys, tmp_path, ["has no config.json"], "sample", tmp_path)  # a folder may be a model too
    for command in ("run", "status", "report", "gc"):
        refused(capsys, tmp_path, ["is no study"], command, tmp_path)
        refused(capsys, tmp_path, ["is no study"], command, tmp_path / "none")
        refused(capsys, tmp_path, ["is no study"], command, tmp_path / "notes.txt")
    refused(capsys, tmp_path, ["is not an empty folder"], "new", tmp_path)
    refused(capsys, tmp_path, ["notes.txt"], "new", tmp_path / "notes.txt")
    refused(capsys, tmp_path, ["notes.txt"], "new", tmp_path / "notes.txt" / "below")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.unlink(), ["study.db does not exist"]),
        (lambda path: path.write_bytes(b""), ["study.db is empty"]),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), ["study.db"]),
        (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), ["study.db"]),
        (lambda path: path.write_bytes(b"not a database at all" * 400), ["study.db is damaged or not a database"]),
    ],
    ids=["gone", "empty", "two pages", "half", "other bytes"],
)
def test_a_damaged_database(
    capsys: Text, world: Path, tmp_path: Path, damage: Callable[[Path], object], says: list[str]
) -> None:
    study = new(capsys, tmp_path, python_reward(world, f"{world}/score.py:brevity"))
    damage(study / "study.db")
    for command in (["run", study], ["status", study], ["feedback", "verify", study]):
        refused(capsys, study, says, *command)


@pytest.mark.parametrize("name", ["scratch", "artifacts"])
def test_a_file_where_a_folder_belongs(capsys: Text, world: Path, tmp_path: Path, name: str) -> None:
    study = new(capsys, tmp_path, python_reward(world, f"{world}/score.py:brevity"))
    (study / name).rmdir()
    (study / name).write_text("in the way")
    check_refusal(*cli(capsys, "run", study), f"{study}", "cannot be a folder")


def prompts_of(lines: str, name: str = "p.jsonl") -> Callable[[Path, Path], list[str]]:
    def change(folder: Path, world: Path) -> list[str]:
        (folder / name).write_text(lines)
        return [f"world.prompts={folder / name}"]

    return change


def model_without(*names: str) -> Callable[[Path, Path], list[str]]:
    def change(folder: Path, world: Path) -> list[str]:
        shutil.copytree(world / "model", folder / "broken", ignore=shutil.ignore_patterns(*names))
        return [f"model.path={folder / 'broken'}"]

    return change


def encoder(folder: Path, world: Path) -> list[str]:
    config = BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    save_policy(BertForMaskedLM(config), word_tokenizer(), folder / "bert")
    return [f"model.path={folder / 'bert'}"]


def cut_weights(folder: Path, world: Path) -> list[str]:
    change = model_without("nothing")(folder, world)
    weights = folder / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return change


ROW = '{"prompt": "w1 w2"}\n'
PROMPTS = [json.dumps({"prompt": f"w{i} w{j}"}) + "\n" for i in range(10) for j in range(8)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (prompts_of(""), ["p.jsonl has no rows"]),
        (prompts_of(ROW + ROW), ["line 2: the same prompt as line 1"]),
        (prompts_of(ROW + '{"prompt": ""}\n'), ["line 2: prompt is empty"]),
        (prompts_of(ROW + '{"text": "w1"}\n'), ["line 2: column prompt is missing"]),
        (prompts_of(ROW + '{"prompt": 3}\n'), ["line 2: prompt is a number"]),
        (prompts_of(ROW), ["none of the 1 prompts", "split"]),
        (prompts_of("w1 w2\n\nw1 w2\n", "p.txt"), ["line 3: the same prompt as line 1"]),
        (prompts_of("question\nw1\n", "p.csv"), ["line 2: column prompt is missing (there are question)"]),
        (lambda folder, world: [f"world.prompts={folder / 'none.jsonl'}"], ["there is no file", "none.jsonl"]),
        (lambda folder, world: [f"world.prompts={folder}"], ["is a folder without data files"]),
        (lambda folder, world: ["world.name=tinytalk"], ["world.prompts", "'tinytalk' does not read"]),
        (lambda folder, world: ["world.name=txt"], ["world.name = 'txt'"]),
        (lambda folder, world: [f"reward.functions={{'{folder}/none.py:f' = 1.0}}"], ["none.py does not exist"]),
        (lambda folder, world: [f"reward.functions={{'{world}/score.py:brevty' = 1.0}}"], ["no function 'brevty'"]),
        (lambda folder, world: ["reward.functions={'no_such_package.f' = 1.0}"], ["names no function"]),
        (lambda folder, world: ["reward.functions={'no_such_package:f' = 1.0}"], ["no_such_package"]),
        (lambda folder, world: [f"world.gold={world}/score.py:none"], ["no function 'none'"]),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_made(
    capsys: Text, world: Path, tmp_path: Path, change: Callable[[Path, Path], list[str]], says: list[str]
) -> None:
    recipe = python_reward(world, f"{world}/score.py:brevity")
    if any("functions=" in c for c in change(tmp_path, world)):
        recipe = recipe.replace(f'functions = {{ "{world}/score.py:brevity" = 1.0 }}', "functions = {}")
    study = new(capsys, tmp_path, recipe, *change(tmp_path, world))
    refused(capsys, study, says, "run", study)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (model_without("tokenizer*"), ["has no tokenizer"]),
        (model_without("*.safetensors"), ["has no safetensors weights"]),
        (model_without("config.json"), ["has no config.json"]),
        (cut_weights, ["cannot load the weights"]),
        (encoder, ["BertForMaskedLM, not a causal language model"]),
        (lambda folder, world: [f"model.path={folder / 'none'}"], ["there is no model folder", "none"]),
        (
            prompts_of("".join(PROMPTS) + '{"prompt": "' + "w1 " * 70 + '"}\n'),
            ["70 tokens", "max_new_tokens = 4", "context of 64"],
        ),
    ],
    ids=["no tokenizer", "no weights", "no config", "cut weights", "encoder", "missing", "long prompt"],
)
def test_bad_models_and_prompts_leave_no_half_made_stage(
    capsys: Text, world: Path, tmp_path: Path, change: Callable[[Path, Path], list[str]], says: list[str]
) -> None:
    study = new(capsys, tmp_path, python_reward(world, f"{world}/score.py:brevity"), *change(tmp_path, world))
    check_refusal(*cli(capsys, "run", study), *says)
    with Study.open(study) as opened:
        assert not [s.name for s in opened.status().stages if s.status == "done"]
        assert opened.artifacts.all() == []


REWARDS = {
    "nan": ("return [float('nan')] * len(prompts)", ["score.py:f is nan for prompt 'w", "completion"]),
    "raises": ("raise KeyError('level')", ["score.py:f raised KeyError: 'level'"]),
    "exits": ("raise SystemExit(0)", ["score.py:f raised SystemExit"]),
    "short": ("return [0.0]", ["returned 1 numbers for 8 completions"]),
    "none": ("return None", ["returned None"]),
    "text": ("return ['good'] * len(prompts)", ["returned ['good'"]),
    "number": ("return 1.0", ["returned 1.0"]),
    "arguments": ("", ["raised TypeError"]),
}


@pytest.mark.parametrize("name", list(REWARDS))
def test_a_faulty_reward_function_is_named_and_mending_it_goes_on(
    capsys: Text, world: Path, tmp_path: Path, name: str
) -> None:
    body, says = REWARDS[name]
    code = tmp_path / "score.py"
    head = "def f(prompts):\n    " if name == "arguments" else "def f(prompts, completions, rows):\n    "
    code.write_text(head + (body or "return prompts") + "\n")
    study = new(capsys, tmp_path, python_reward(world, "score.py:f"))
    check_refusal(*cli(capsys, "run", study), *says)
    with Study.open(study) as opened:
        assert [s.name for s in opened.status().stages if s.status == "done"] == ["base"]
        for address in opened.artifacts.all():
            opened.artifacts.verify(address)
    before = contents(study / "artifacts")
    check_refusal(*cli(capsys, "run", study), *says)
    assert contents(study / "artifacts") == before
    code.write_text("def f(prompts, completions, rows):\n    return [0.0] * len(prompts)\n")
    status, _, err = cli(capsys, "run", study)
    assert (status, err) == (0, "")
