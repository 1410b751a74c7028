"""Published data sets, read whole: how many rows each has, what is rejected and why, and what the records say.

The files are not part of the project: ``TROPISM_DATA`` names their folder (``../shared/data`` beside the repository by
default); without it these tests are skipped.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tropism.data import Reading, read
from tropism.data.records import prompt_text

DATA = Path(os.environ.get("TROPISM_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))
ROWS: list[tuple[str, dict[str, Any], str, int, int, int]] = [
    # file, options, format, rows, records, rejected
    ("hh_harmless_test/test.jsonl.gz", {}, "hh", 2312, 2312, 0),
    ("oasst_100_trees/en_100_tree.jsonl.gz", {}, "oasst", 100, 211, 0),
    ("oasst_100_trees/en_100_tree.jsonl.gz", {"take": "all"}, "oasst", 100, 687, 0),
    ("pandalm_testset/testset-v1.json.gz", {}, "votes", 999, 2997, 0),
    ("instructions/seed_tasks.jsonl", {}, "demonstrations", 175, 175, 0),
    ("instructions/user_oriented_instructions.jsonl", {}, "demonstrations", 252, 252, 0),
    ("instructions/koala_test_set.jsonl", {}, "prompts", 180, 180, 0),
    ("instructions/zh_seed_tasks.json", {}, "demonstrations", 175, 175, 0),
    ("instructions/dolly_151.jsonl", {}, "demonstrations", 151, 151, 0),
    ("instructions/alpaca_en_demo.json.gz", {}, "demonstrations", 999, 999, 0),
    ("instructions/alpaca_zh_demo.json.gz", {}, "demonstrations", 1000, 1000, 0),
    ("instructions/dpo_en_demo.json.gz", {}, "pairs", 300, 295, 5),
    ("instructions/kto_en_demo.json.gz", {}, "unpaired", 300, 300, 0),
    ("ukp_convarg1", {}, "ukp", 65003, 64938, 65),
    ("wmt_rankings/wmt13.fr-en.5way.csv.xz", {}, "wmt", 9996, 9996, 0),
    ("wmt_rankings/wmt16.tur-eng.csv.xz", {}, "wmt", 10188, 970, 0),
    ("robot_human_labels/labels.npz", {}, "segments", 69800, 65399, 1),
    ("rmeval_llmbar/llmbar_natural_mtbench.json.xz", {}, "llmbar", 300, 300, 0),
]
_READ: dict[str, Reading] = {}


def reading_of(file: str, **options: Any) -> Reading:
    """A file's reading, once for all tests; skips where the data are not there."""
    if not (DATA / file).exists():
        pytest.skip(f"there is no {DATA / file}")
    key = f"{file} {sorted(options.items())}"
    if key not in _READ:
        _READ[key] = read(DATA / file, **options)
    return _READ[key]


@pytest.mark.parametrize(("file", "options", "format", "rows", "records", "rejected"), ROWS)
def test_row_counts(file: str, options: dict[str, Any], format: str, rows: int, records: int, rejected: int) -> None:
    reading = reading_of(file, **options)
    assert reading.source["format"] == format
    assert (reading.rows, len(reading.records), len(reading.rejected)) == (rows, records, rejected)
    assert reading.source["complete"]


def test_transcripts_of_helpful_and_harmless() -> None:
    reading = reading_of("hh_harmless_test/test.jsonl.gz")
    assert reading.noted == {
        "empty answers": 4,
        "transcripts with two turns of one speaker in a row": 13,
        "transcripts that part before their last turn": 5,
    }
    for record in reading.records:
        assert not isinstance(record.prompt, str)
        assert record.prompt[-1]["role"] == "user"
        assert [c["messages"][0]["role"] for c in record.candidates] == ["assistant", "assistant"]
    several = [r for r in reading.records if any(len(c["messages"]) > 1 for c in r.candidates)]
    assert [r.line for r in several] == [1255, 1689, 1951, 1953, 2037]


def test_trees() -> None:
    reading = reading_of("oasst_100_trees/en_100_tree.jsonl.gz")
    sizes = Counter(len(record.candidates) for record in reading.records)
    assert sizes == {2: 57, 3: 116, 4: 27, 5: 3, 6: 6, 8: 1, 9: 1}
    assert reading.left_out == {"sibling sets with a reply that nobody ranked": 1, "sibling sets that nobody ranked": 2}
    assert len({record.group for record in reading.records}) == 100
    partial = reading_of("oasst_100_trees/en_100_tree.jsonl.gz", partial=True)
    assert len(partial.records) == 212
    assert [r.value["unranked"] for r in partial.records if r.value and r.value["unranked"]] == [["c4"]]
    best = reading_of("oasst_100_trees/en_100_tree.jsonl.gz", take="best")
    every = reading_of("oasst_100_trees/en_100_tree.jsonl.gz", take="all")
    assert {(prompt_text(r.prompt), r.text) for r in best.records} < {
        (prompt_text(r.prompt), r.text) for r in every.records
    }
    firsts = [r for r in best.records if len(r.prompt) == 1]
    assert len(firsts) == 100  # one best reply to each tree's first message


def test_three_annotators() -> None:
    reading = reading_of("pandalm_testset/testset-v1.json.gz")
    assert Counter(r.teacher for r in reading.records) == {f"annotator{i}": 999 for i in (1, 2, 3)}
    votes: dict[str, list[Any]] = {}
    for record in reading.records:
        assert record.value is not None
        votes.setdefault(str(record.source_id), []).append(record.value["choice"])
    assert sum(len(set(said)) == 1 for said in votes.values()) == 879
    assert reading.repaired == {"truth value instead of an answer written as text": 6}
    assert reading.noted["empty answers"] == 54
    assert len({record.group for record in reading.records}) == 50


def test_arguments() -> None:
    reading = reading_of("ukp_convarg1")
    assert {bad.reason for bad in reading.rejected} == {"the two answers are identical"}
    assert len({record.group for record in reading.records}) == 24
    assert all(record.text and record.teacher for record in reading.records)
    said = Counter(record.value["choice"] for record in reading.records if record.value)
    assert set(said) == {"a", "b", "tie"}
    assert 0.49 < said["a"] / (said["a"] + said["b"]) < 0.51  # neither side is preferred as such
    assert [entry["name"] for entry in reading.source["files"]] == ["arguments.jsonl.gz", "judgements.csv.xz"]
    assert {"mace_competence", "accepted", "submitted", "arguments"} == set(reading.records[0].meta)


def test_rankings_of_systems() -> None:
    five = reading_of("wmt_rankings/wmt13.fr-en.5way.csv.xz")
    assert {len(record.candidates) for record in five.records} == {5}
    assert len({record.teacher for record in five.records}) == 218
    tied = sum(any(len(group) > 1 for group in r.value["rank"]) for r in five.records if r.value)
    assert tied > 1000
    pairs = reading_of("wmt_rankings/wmt16.tur-eng.csv.xz")
    assert Counter(len(r.candidates) for r in pairs.records) == {5: 922, 6: 26, 7: 10, 8: 8, 9: 4}
    assert len({r.source_id for r in pairs.records}) == 970
    assert len({r.teacher for r in pairs.records}) == 33


def test_segments_of_robots() -> None:
    reading = reading_of("robot_human_labels/labels.npz")
    sets = Counter(record.group.partition("/")[0] for record in reading.records)
    assert sets == {"PT": 7400, "UniRLHF": 57999}
    assert reading.left_out == {"pairs of segments without a label": 4400}
    assert reading.empty_rows == 4400
    assert reading.rejected[0].reason == "UniRLHF/pen-human-v1/len50: the two segments are identical"
    assert len({record.group for record in reading.records}) == 47
    can = next(record for record in reading.records if record.group == "PT/Can_mh")
    assert can.candidates[0] == {"source": "PT/Can_mh", "start": 41059, "length": 100}


def test_sets_of_a_benchmark() -> None:
    reading = reading_of("rmeval_llmbar/llmbar_natural_mtbench.json.xz")
    assert Counter(record.group for record in reading.records) == {"LLMBar/Natural": 100, "Processed/MT-Bench": 200}
    assert reading.noted == {"said again, the same": 5}
    choices = Counter((r.group, r.value["choice"]) for r in reading.records if r.value)
    assert choices[("LLMBar/Natural", "b")] == 58


def test_instructions() -> None:
    plain = reading_of("instructions/dolly_151.jsonl")
    stripped = reading_of("instructions/dolly_151.jsonl", strip_suffix="###eos_token###")
    assert all(str(record.text).endswith("###eos_token###") for record in plain.records)
    assert stripped.repaired == {"suffix '###eos_token###' taken off": 151}
    assert not any("###" in str(record.text) for record in stripped.records)
    assert reading_of("instructions/zh_seed_tasks.json").repaired == {"JSON lines in a .json file": 1}
    assert reading_of("instructions/alpaca_en_demo.json.gz").noted == {"said again, the same": 14}
    doubled = reading_of("instructions/dpo_en_demo.json.gz").rejected
    assert all(bad.reason.startswith("the same as line ") for bad in doubled)
    labels = Counter(r.value["good"] for r in reading_of("instructions/kto_en_demo.json.gz").records if r.value)
    assert labels == {True: 150, False: 150}
