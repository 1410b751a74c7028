"""A user's own text world: files of any kind and format, splits that stay, every broken row named by its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tropism.data.exporting import export
from tropism.data.lines import LINE_LIMIT
from tropism.data.records import Record
from tropism.errors import ConfigError, DataError, ModelError, RewardError
from tropism.language.worlds.base import ModelSettings
from tropism.language.worlds.text import TextWorld


def prompts_file(folder: Path, count: int = 200) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Say {i}.", "level": i}) + "\n" for i in range(count)))
    return path


def test_jsonl_rows_become_tasks_with_their_fields(tmp_path: Path) -> None:
    world = TextWorld(prompts_file(tmp_path))
    found = {s: world.tasks(s, 1000, 0) for s in ("train", "validation", "test")}
    assert sum(len(tasks) for tasks in found.values()) == 200
    assert 20 <= len(found["test"]) <= 60
    assert 15 <= len(found["validation"]) <= 50
    for split, tasks in found.items():
        assert {world.split_of(str(t.payload["prompt"])) for t in tasks} == {split}
        assert all(t.payload["prompt"] == f"Say {t.payload['level']}." for t in tasks)
    assert [t.id for t in world.tasks("train", 9, 4)] == [t.id for t in world.tasks("train", 9, 4)]
    assert [t.id for t in world.tasks("train", 9, 4)] != [t.id for t in world.tasks("train", 9, 5)]


def test_a_prompt_keeps_its_split_when_the_file_grows(tmp_path: Path) -> None:
    small = {t.payload["prompt"] for t in TextWorld(prompts_file(tmp_path, 50)).tasks("test", 999, 0)}
    grown = {t.payload["prompt"] for t in TextWorld(prompts_file(tmp_path, 200)).tasks("test", 999, 0)}
    assert small < grown


def test_csv_and_plain_text_are_read_alike(tmp_path: Path) -> None:
    rows = [f"Say {i}, please." for i in range(40)]
    (tmp_path / "p.csv").write_text("\ufeffprompt,topic\n" + "".join(f'"{r}",t\n' for r in rows), encoding="utf-8")
    (tmp_path / "p.txt").write_text("\n".join(rows) + "\n\n")
    csv_world, txt_world = TextWorld(tmp_path / "p.csv"), TextWorld(tmp_path / "p.txt")
    prompts = [{t.payload["prompt"] for t in w.tasks("train", 99, 0)} for w in (csv_world, txt_world)]
    assert prompts[0] == prompts[1]
    assert csv_world.tasks("train", 1, 0)[0].payload["topic"] == "t"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "x"}', "column prompt is missing (there are text)"),
        (b'{"promt": "x"}', "did you mean promt?"),
        (b'{"prompt": 5}', "prompt is a number, not text"),
        (b'{"prompt": "  "}', "prompt is empty"),
        (b'{"prompt": "x"', "not JSON"),
        (b'["x"]', "a list, not an object"),
        (b'{"prompt": "x", "w": NaN}', "NaN is no JSON number"),
        (b'{"prompt": "\xff"}', "is not valid UTF-8"),
        (b'{"prompt": "a\0b"}', "NUL"),
        (b'{"prompt": "fine"}', "the same prompt as line 1"),
        (b'{"prompt": [{"role": "user"}]}', "prompt[1].content is a null"),
        (b'{"prompt": "' + b"x" * LINE_LIMIT + b'"}', "longer than"),
    ],
)
def test_a_broken_row_is_named_by_its_line(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'{"prompt": "fine"}\n\n' + line + b"\n")
    with pytest.raises(DataError) as caught:
        TextWorld(path)
    assert "line 3" in caught.value.problem
    assert reason in caught.value.problem
    assert caught.value.fix


def test_many_broken_rows_are_counted(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": ""}\n' * 12)
    with pytest.raises(DataError, match=r"line 1: .*line 5: .*and 7 more"):
        TextWorld(tmp_path / "p.jsonl")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("question\nx\n", "line 2: column prompt is missing .there are question"),
        ("prompt,a\nx\n", "line 2: 1 cells, but the first line names 2 columns"),
        ("prompt\nx,y\n", "line 2: 2 cells, but the first line names 1 columns"),
        ("prompt\n", "no rows"),
        ("", "is empty"),
    ],
)
def test_broken_csv_files(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "p.csv").write_text(content)
    with pytest.raises(DataError, match=reason):
        TextWorld(tmp_path / "p.csv")


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        TextWorld(tmp_path / "nothing.jsonl")
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(DataError, match="has no rows"):
        TextWorld(tmp_path / "empty.txt")


def test_an_empty_split_and_impossible_fractions_are_said(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("one prompt\n")
    world = TextWorld(tmp_path / "p.txt")
    empty = next(s for s in ("train", "validation", "test") if s != world.split_of("one prompt"))
    with pytest.raises(DataError, match=f"none of the 1 prompts .* {empty} split"):
        world.tasks(empty, 1, 0)
    with pytest.raises(ConfigError, match="leave nothing"):
        TextWorld(tmp_path / "p.txt", test_fraction=0.6, validation_fraction=0.4)


def test_demonstrations_of_held_out_prompts_are_left_out_and_counted(tmp_path: Path) -> None:
    prompts = prompts_file(tmp_path)
    demos = tmp_path / "d.jsonl"
    demos.write_text("".join(json.dumps({"prompt": f"Say {i}.", "completion": str(i)}) + "\n" for i in range(220)))
    world = TextWorld(prompts, demonstrations=demos)
    held_out = {t.payload["prompt"] for s in ("validation", "test") for t in world.tasks(s, 999, 0)}
    pairs = world.demonstrations(999, 0)
    assert not {p for p, _ in pairs} & held_out
    assert len(pairs) + world.held_out_demonstrations == 220
    assert world.held_out_demonstrations == len(held_out)
    demos.write_text('{"prompt": "x", "text": "y"}\n')
    with pytest.raises(DataError, match=r"line 1: column completion is missing .there are prompt, text"):
        TextWorld(prompts, demonstrations=demos)


def test_chats_give_messages(tmp_path: Path) -> None:
    chats = [[{"role": "system", "content": "Be kind."}, {"role": "user", "content": f"Say {i}."}] for i in range(40)]
    rows = "".join(json.dumps({"prompt": chat, "id": i}) + "\n" for i, chat in enumerate(chats))
    (tmp_path / "p.jsonl").write_text(rows)
    shown = [{"messages": [*chat, {"role": "assistant", "content": "So."}]} for chat in chats]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shown))
    world = TextWorld(tmp_path / "p.jsonl", demonstrations=tmp_path / "d.jsonl")
    tasks = world.tasks("train", 99, 0)
    payload = tasks[0].payload
    assert payload["messages"] in chats
    assert payload["prompt"] == f"system: Be kind.\n\nuser: {payload['messages'][1]['content']}"
    assert payload["messages"] == chats[int(payload["id"])]
    assert world.known_split(payload["prompt"]) == "train"
    pairs = world.demonstrations(99, 0)
    assert len(pairs) == len(tasks) == 40 - world.held_out_demonstrations
    assert [p["messages"] for p, _ in pairs if isinstance(p, dict)] != []
    assert {text for _, text in pairs} == {"So."}


def test_other_files_and_formats_give_their_prompts(tmp_path: Path) -> None:
    pairs = [
        Record(f"Say {i}.", ({"text": "x"}, {"text": "y"}), {"kind": "comparison", "choice": "a"}, None, "comparison")
        for i in range(30)
    ]
    wanted = {record.prompt for record in pairs}
    export(pairs, tmp_path / "own.jsonl", "tropism")
    export(pairs, tmp_path / "p.parquet", "prompts")
    export(pairs, tmp_path / "folder", "prompts")
    for name in ("own.jsonl", "p.parquet", "folder"):
        assert TextWorld(tmp_path / name).prompts == wanted
    export(pairs, tmp_path / "pairs.jsonl", "pairs")
    world = TextWorld(tmp_path / "pairs.jsonl")  # a column prompt: the others are the row's own
    assert world.tasks("train", 1, 0)[0].payload["chosen"] == "x"
    turns = [
        {"messages": [{"role": "user", "content": p}, {"role": "assistant", "content": "x"}]} for p in sorted(wanted)
    ]
    (tmp_path / "turns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turns))
    assert TextWorld(tmp_path / "turns.jsonl").prompts == {f"user: {prompt}" for prompt in wanted}


def test_a_cell_that_we_escaped_is_read_as_it_was(tmp_path: Path) -> None:
    export([Record(f"={i}") for i in range(9)], tmp_path / "p.csv", "prompts")
    assert TextWorld(tmp_path / "p.csv").prompts == {f"={i}" for i in range(9)}


def test_a_file_without_demonstrations_is_said(tmp_path: Path) -> None:
    prompts = prompts_file(tmp_path)
    (tmp_path / "d.jsonl").write_text('{"prompt": "x", "chosen": "a", "rejected": "b"}\n')
    with pytest.raises(DataError, match="has no demonstrations"):
        TextWorld(prompts, demonstrations=tmp_path / "d.jsonl")


def test_the_gold_function_is_called_and_its_faults_are_named(tmp_path: Path) -> None:
    prompts = prompts_file(tmp_path)
    code = tmp_path / "gold.py"
    code.write_text(
        "def level(prompts, completions, rows): return [r['level'] + len(c) for r, c in zip(rows, completions)]\n"
        "def broken(prompts, completions, rows): raise KeyError('x')\n"
        "def nan(prompts, completions, rows): return [float('nan')]\n"
    )
    world = TextWorld(prompts, gold=f"{code}:level")
    task = world.tasks("train", 1, 0)[0]
    assert world.gold(task, "abc") == task.payload["level"] + 3
    assert TextWorld(prompts).gold(task, "abc") is None
    for name, said in (("broken", "raised KeyError"), ("nan", "nan")):
        with pytest.raises(RewardError, match=said):
            TextWorld(prompts, gold=f"{code}:{name}").gold(task, "abc")
    with pytest.raises(ConfigError, match="no function 'other'"):
        TextWorld(prompts, gold=f"{code}:other")


def test_a_text_world_makes_no_model(tmp_path: Path) -> None:
    world = TextWorld(prompts_file(tmp_path))
    assert world.curriculum(0) == []
    assert world.demonstrations(5, 0) == []
    with pytest.raises(ModelError, match=r"model\.path is not set"):
        world.build(tmp_path / "m", ModelSettings(), 0)
