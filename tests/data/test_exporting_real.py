"""Round trips of public data sets, where they are there: row counts, and nothing lost that is not counted.

``TROPISM_DATA`` names their folder (by default ``../shared/data`` beside the repository). Left out: the segments'
arrays, which only our own form holds.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tropism.data import read
from tropism.data.exporting import export
from tropism.data.exporting_rows import ExportOptions
from tropism.data.judgements import to_demonstrations, to_judgements
from tropism.data.manifest import reading_options
from tropism.data.records import Record, to_json
from tropism.data.voting import as_vote
from tropism.digests import digest

DATA = Path(os.environ.get("TROPISM_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the public data sets are not here (TROPISM_DATA)")


def said(record: Record) -> str:
    """All that a record says, whatever its slots."""
    if record.value is None:
        return digest(to_json(record))
    vote = as_vote(record, record.split or "train")
    rest = [record.teacher, record.split, record.source_id, dict(record.meta)]
    return digest([vote.task.payload, vote.query.id, dict(vote.answer.value or {}), record.text, rest])


def source(name: str, **options: Any) -> list[Record]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not here")
    return read(path, **options).records


CASES = [
    # source, how it is read, format and file of the export, records, of which held, and left out
    ("hh_harmless_test", {}, "pairs", "x.jsonl", 2312, 2308, {"an empty answer": 4}),
    ("hh_harmless_test", {}, "pairs", "x.parquet", 2312, 2308, {"an empty answer": 4}),
    ("hh_harmless_test", {}, "pairs", "x.csv", 2312, 2308, {"an empty answer": 4}),
    ("hh_harmless_test", {}, "pairs", "x", 2312, 2308, {"an empty answer": 4}),
    ("pandalm_testset", {}, "votes", "x.jsonl", 2997, 2997, {}),
    ("pandalm_testset", {}, "tropism", "x.jsonl", 2997, 2997, {}),
    ("oasst_100_trees", {}, "ranked", "x.jsonl", 211, 211, {}),
    ("oasst_100_trees", {}, "ranked", "x.parquet", 211, 211, {}),
    ("oasst_100_trees", {}, "ranked", "x", 211, 211, {}),
    ("oasst_100_trees", {}, "ranked", "x.csv", 211, 211, {}),
    ("oasst_100_trees", {"take": "all"}, "demonstrations", "x.jsonl", 687, 687, {}),
    ("rmeval_llmbar", {}, "pairs", "x.jsonl", 300, 300, {}),
    ("rmeval_llmbar", {}, "pairs", "x.csv", 300, 300, {}),
    ("instructions/seed_tasks.jsonl", {}, "demonstrations", "x.parquet", 175, 175, {}),
    ("instructions/kto_en_demo.json.gz", {}, "unpaired", "x.jsonl", 300, 300, {}),
    ("instructions/dpo_en_demo.json.gz", {}, "pairs", "x", 295, 295, {}),
    ("instructions/koala_test_set.jsonl", {}, "prompts", "x.csv", 180, 180, {}),
    ("wmt_rankings", {"limit": 4000}, "tropism", "x.jsonl", 4000, 4000, {}),
    ("ukp_convarg1", {"limit": 6000}, "pairs", "x.parquet", 6000, 6000, {}),
]


@pytest.mark.parametrize(
    ("name", "options", "format", "file", "records", "held", "left_out"),
    CASES,
    ids=[f"{case[0]}-{case[2]}-{case[3]}" for case in CASES],
)
def test_round_trips(
    tmp_path: Path, name: str, options: dict[str, Any], format: str, file: str,
    records: int, held: int, left_out: dict[str, int],
) -> None:  # fmt: skip
    """Every vote comes back as it was: texts, slots, order shown, annotator, reason, group, id and further columns."""
    found = source(name, **options)
    form = ExportOptions(form="label" if name == "ukp_convarg1" else "chosen")
    report = export(found, tmp_path / file, format, options=form)
    assert (report.records, report.held, dict(report.left_out)) == (records, held, left_out)
    assert not report.lost
    back = read(tmp_path / file, **reading_options(tmp_path / file))
    assert not back.rejected
    assert len(back.records) == held
    missing = Counter(map(said, found))
    missing.subtract(map(said, back.records))
    assert min(missing.values()) == 0
    assert sum(missing.values()) == sum(left_out.values())


@pytest.mark.parametrize(
    ("name", "options", "judgements", "teachers", "dropped"),
    [
        ("hh_harmless_test", {}, 2312, 1, {}),
        ("oasst_100_trees", {}, 211, 1, {}),
        ("pandalm_testset", {}, 2589, 3, {"said before": 406, "contradicts another row of its annotator": 2}),
        ("rmeval_llmbar", {}, 295, 1, {"said before": 5}),
        (
            "wmt_rankings",
            {"limit": 4000},
            3928,
            207,
            {"said before": 22, "contradicts another row of its annotator": 50},
        ),
        ("ukp_convarg1", {"limit": 6000}, 6000, 1372, {}),
    ],
)
def test_judgements(
    name: str, options: dict[str, Any], judgements: int, teachers: int, dropped: dict[str, int]
) -> None:
    """An annotator has one say on a pair: some sets hold the same texts twice, under two ids."""
    found = source(name, **options)
    judged = to_judgements(found, split_by="group")
    summary = judged.summary()
    assert summary["records"] == len(found)
    assert (len(judged.judgements), summary["teachers"], summary["dropped"]) == (judgements, teachers, dropped)


def test_demonstrations_of_trees_are_their_best_answers() -> None:
    found = source("oasst_100_trees")
    best = to_demonstrations(found, chosen=True)
    assert len(best) == 211
    assert all(task["messages"][-1]["role"] == "user" for task, _ in best)
