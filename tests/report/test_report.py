"""The report from a study's folder: what it says, what it escapes, and what it does when things are missing."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import sqlalchemy as sa

from fake_study import PROMPTS, empty_study, make_study
from tropism.errors import StoreError
from tropism.store import lineage, schema
from tropism.store.artifacts import ArtifactStore
from tropism.store.database import Database
from tropism.store.metrics import MetricStore
from tropism.study.report.curves import gold_against_proxy
from tropism.study.report.data import gather
from tropism.study.report.page import render, write_page
from tropism.study.report.samples import paired, side_by_side, spread
from tropism.study.report.tables import bootstrap, comparison, phases
from tropism.study.report.verdict import verdict
from tropism.study.stages import lineage_id


class Page(HTMLParser):
    """Tags with attributes, and the text of the page outside styles and scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self._inside):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("studies") / "fake", rejected=1)


@pytest.fixture(scope="module")
def html(study: Path) -> str:
    return write_page(study).read_text("utf-8")


def test_it_asks_nothing_of_the_network(html: str) -> None:
    page = Page(html)
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), f"<{tag} {name}={value!r}>"
        assert tag not in {"iframe", "object", "embed", "base", "form"}
    style = re.search(r"<style>(.*?)</style>", html, re.S)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    policy = next(
        a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_hostile_text_is_only_text(html: str) -> None:
    page = Page(html)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert "alert(1)" in page.text  # shown
    assert "⟨RLO⟩" in page.text
    assert "⟨ESC⟩[31mred" in page.text
    assert "zero⟨ZWSP⟩width" in page.text
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\x1b]", html)
    assert "fake <study>" in page.text


def test_the_verdict_names_the_kept_round_its_gain_and_its_price(html: str) -> None:
    text = Page(html).text
    assert "The policy of round 2 of 2 is kept" in text
    assert "wins 0.800 of its comparisons with the SFT model (95 % interval 0.760 to 0.840)" in text
    assert "answers 84.0 % correctly, where the SFT model answers 50.0 %" in text
    assert "Lower than SFT: politeness (50.0 → 45.0 %, within noise)" in text
    assert "Rolled back: round 1" in text
    assert "One seed" in text
    assert "no person judged anything" in text


def test_a_rolled_back_round_says_why(html: str) -> None:
    text = Page(html).text
    assert "Round 1: rolled back." in text
    assert "refusal fell to 0.400, below 0.520" in text
    assert "broken" in text


def test_over_optimisation_is_named_and_its_absence_too(html: str) -> None:
    text = Page(html).text
    said = "Round 1 over-optimised its reward model: gold fell by 0.4 from its best (around step 12, KL 0.55)"
    assert text.count(said) == 2  # in the verdict and beside the chart
    assert "Round 2: no over-optimisation. From gold's best window to the last one gold changed by -0.4" in text


def test_drift_is_shown_with_its_interval(html: str) -> None:
    text = Page(html).text
    assert "The round before, on the new feedback" in text
    assert "0.600 – 0.800" in text
    assert "-0.200 – -0.010" in text


def test_every_section_is_there_and_every_chart_is_drawn(html: str) -> None:
    page = Page(html)
    ids = {attributes.get("id") for tag, attributes in page.tags if tag == "section"}
    links = {(a.get("href") or "")[1:] for tag, a in page.tags if tag == "a"}
    assert links == ids
    assert len(ids) == 11
    assert 'class="empty"' not in html
    charts = [a for tag, a in page.tags if tag == "svg" and "data-chart" in a]
    assert len(charts) >= 18
    for chart in charts:
        assert json.loads(chart["data-chart"] or "")["series"]


def test_stages_seconds_and_peak_memory(study: Path, html: str) -> None:
    facts = gather(study)
    improve = next(p for p in phases(facts) if p.stage == "improve-2")
    assert {part.phase: part.wall_s for part in improve.parts} == pytest.approx({"optimise": 42.0, "rollout": 15.0})
    assert "Peak memory 929 MiB" in Page(html).text
    counted = {part.phase: part for part in improve.counted}
    assert counted["rollout"].tokens_per_s == pytest.approx(90 / 0.5)
    assert counted["optimise"].gflop_per_cpu_s == pytest.approx(100.0)
    assert "GFLOP per CPU s" in Page(html).text
    assert "improve-2 optimise" in Page(html).text


def test_the_table_compares_pairs_with_intervals(study: Path) -> None:
    facts = gather(study)
    heads, rows = comparison(facts)
    assert heads == ["SFT", "Round 1", "Round 2"]
    table = {row.label: row.cells for row in rows}
    assert [cell.text for cell in table["Correct answers"]] == ["50.0 %", "72.0 %", "84.0 %"]
    assert all(cell.interval for cell in table["Correct answers"])
    assert table["Polite"][2].change == "same"  # 45 against 50 %, on the same answers: no difference to be told
    assert table["Gold score"][2].change == "better"
    assert table["Win rate over SFT"][0].text == "–"
    assert table["Win rate over SFT"][2].interval == "76.0 – 84.0 %"


def test_pairs_leave_out_prompts_to_which_an_aspect_does_not_apply(study: Path) -> None:
    facts = gather(study)
    own, reference = paired(facts, 2, "correct")
    assert len(own) == len(reference) == PROMPTS - PROMPTS // 3
    assert paired(facts, 2, "missing_end")[1].count(1.0) == 1
    assert paired(facts, 2, "no such thing") == ([], [])
    assert paired(facts, 9, "correct") == ([], [])


def test_bootstrap_covers_the_mean_about_as_often_as_it_says() -> None:
    import numpy as np

    chance = np.random.default_rng(5)
    hits = 0
    for _ in range(200):
        low, high = bootstrap(list(chance.normal(1.0, 2.0, 60)))
        hits += low <= 1.0 <= high
    assert 0.89 <= hits / 200 <= 0.99


def test_only_aspects_that_are_good_or_bad_are_coloured(html: str) -> None:
    chips = re.findall(r'<span class="(\w*)">(\w+) [01]</span>', html)
    assert ("yes", "polite") in chips
    assert ("no", "correct") in chips
    assert ("", "refused") in chips
    assert not {("yes", "refused"), ("no", "refused")} & set(chips)


def test_samples_stand_side_by_side_and_take_turns_between_kinds(study: Path) -> None:
    samples = side_by_side(gather(study), 6)
    assert [answer.who for answer in samples[0].answers] == ["SFT", "Round 1", "Round 2"]
    assert {sample.kind for sample in samples[:2]} == {"question", "refuse"}
    assert samples[0].answers[2].text.endswith("(2)")
    assert spread([], 3) == []


def test_a_study_that_has_not_run_gives_a_page_that_says_so(tmp_path: Path) -> None:
    html = write_page(empty_study(tmp_path / "new")).read_text("utf-8")
    text = Page(html).text
    assert "No round has been evaluated yet" in text
    assert "No reward model has been assessed yet" in text
    assert "No feedback has been given yet" in text
    assert "No stage has run yet" in text
    assert "No sft/loss was logged by any base stage." in text


def test_without_metrics_and_samples_the_rest_is_still_shown(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "fake", rounds=1)
    for path in folder.glob("metrics.db*"):
        path.unlink()
    for row in (folder / "artifacts").glob("*/*"):
        for file in row.iterdir():
            file.unlink()
        row.rmdir()
    text = Page(write_page(folder).read_text("utf-8")).text
    assert "The policy of round 1 of 1 is kept" in text
    assert "No improve stage has logged anything yet" in text
    assert "No evaluation has stored texts yet" in text


def test_what_a_replaced_stage_made_is_not_shown(tmp_path: Path) -> None:
    """A round done again under other settings: its first policy was not rolled back, its reward model is not in use."""
    folder = make_study(tmp_path / "s")
    before = gather(folder)
    database = Database.open(folder / "study.db")
    with database.write() as connection:
        for name in ("reward-1", "improve-1", "evaluate-1"):
            row = {"name": name, "round": 1, "status": "replaced", "seed": 8, "inputs": {}}
            connection.execute(sa.insert(schema.stages).values(key=f"old {name}", **row))
        old = {kind: lineage_id(kind, f"old {name}-1") for kind, name in
               (("reward", "reward"), ("policy", "improve"), ("evaluation", "evaluate"))}  # fmt: skip
        base = before.policies[0].id
        lineage.record_reward_model(connection, old["reward"], "d" * 64, 1, "set-1", {"assessment": {}})
        lineage.record_policy(connection, old["policy"], "e" * 64, 1, base, base, old["reward"], "rejected", {})
        lineage.record_evaluation(connection, old["evaluation"], old["policy"], 1, {"metrics": {"win_rate": 0.1}})
    database.close()
    after = gather(folder)
    assert [p.id for p in after.policies] == [p.id for p in before.policies]
    assert [r.id for r in after.rewards] == [r.id for r in before.rewards]
    assert len(after.rewards) == 2
    assert after.evaluations == before.evaluations
    assert verdict(after) == verdict(before)
    assert "Rolled back" not in verdict(after)


def test_the_proxy_is_the_learned_score_without_penalties(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", rounds=1)
    metrics = MetricStore(folder / "metrics.db")
    before = gold_against_proxy(gather(folder)).svg
    for step in range(30):
        metrics.write("improve-1", step, {"ppo/score_mean": -50.0})
    assert gold_against_proxy(gather(folder)).svg == before
    for step in range(30):
        metrics.write("improve-1", step, {"reward/learned_mean": -50.0})
    metrics.close()
    assert gold_against_proxy(gather(folder)).svg != before


def test_all_rounds_rolled_back_is_said_first(tmp_path: Path) -> None:
    facts = gather(make_study(tmp_path / "fake", rounds=1, rejected=1))
    assert verdict(facts).startswith("After 1 round no policy was promoted")
    assert "Round 1: rolled back." in Page(render(facts)).text


def test_a_damaged_artifact_is_named(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "fake", rounds=1)
    store = ArtifactStore(folder / "artifacts")
    digest = next(d for d in store.all() if (store.path(d) / "samples.jsonl").exists())
    (store.path(digest) / "samples.jsonl").write_text('{"prompt": "a"}\n{"prompt": ')
    with pytest.raises(StoreError, match=r"line 2 of samples\.jsonl in artifact " + digest):
        write_page(folder)


def test_infinities_in_metrics_do_not_break_the_page(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "fake", rounds=1)
    metrics = MetricStore(folder / "metrics.db")
    metrics.write(
        "improve-1", 5, {"ppo/grad_norm": float("inf"), "kl/ref_k1": float("inf"), "time/rollout_s": float("nan")}
    )
    metrics.close()
    assert "Gradient norm" in write_page(folder).read_text("utf-8")


def test_no_study_is_an_error_with_a_fix(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        write_page(tmp_path)
    assert caught.value.fix


def test_writing_twice_gives_the_same_bytes(study: Path) -> None:
    first = write_page(study).read_bytes()
    assert write_page(study).read_bytes() == first
    assert not list(study.glob("*.partial"))
