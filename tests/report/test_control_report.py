"""The report of a control study: its own words, true returns, curves over environment steps, clips before and after."""

from __future__ import annotations

import base64
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from small_control import STEPS, run
from test_browser import BROWSER, console, open_page
from test_report import Page

from tropism.cli.tables import print_results, print_rollouts, print_samples
from tropism.control.evaluate import evaluate
from tropism.control.footage import film, openings
from tropism.control.policy import load_policy
from tropism.environments.making import EnvironmentSpec
from tropism.errors import StoreError
from tropism.study.report import page as pages
from tropism.study.report.curves import CLOCK, EPISODE_PANELS, draw, joined, others
from tropism.study.report.data import Facts, gather
from tropism.study.report.episodes import clips_note, coverage, while_training
from tropism.study.report.page import render, write_page
from tropism.study.report.samples import Answer, side_by_side
from tropism.study.report.tables import comparison
from tropism.study.report.verdict import limits, verdict
from tropism.study.report.words import Words, words_of
from tropism.study.study import Study

SLIDE = EnvironmentSpec("TropismSlide-v0", horizon="fixed")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return run(tmp_path_factory.mktemp("control") / "s")


@pytest.fixture(scope="module")
def facts(study: Study) -> Facts:
    return gather(study.folder)


@pytest.fixture(scope="module")
def html(study: Study) -> str:
    return write_page(study.folder).read_text("utf-8")


def test_it_speaks_of_episodes(html: str) -> None:
    page = Page(html)
    for word in ("SFT", "prompt", "per answer", "per token", "Supervised", "proxy", "rubric", "length-only"):
        assert word not in page.text
    assert "Untrained against each round" in page.text
    assert "TropismSlide-v0" in page.text
    ids = {attributes.get("id") for tag, attributes in page.tags if tag == "section"}
    assert {(a.get("href") or "")[1:] for tag, a in page.tags if tag == "a"} == ids
    assert not ids & {"sft", "proxy"}
    assert 'class="empty"' not in html


def test_what_a_study_does_not_say_is_called_as_in_language(facts: Facts) -> None:
    from dataclasses import replace

    assert words_of(facts).short == "Untrained"
    assert words_of(replace(facts, stages=())) == Words()
    base = replace(facts.stages[0], values={"words": {"short": "Before", "unknown": "x"}})
    assert words_of(replace(facts, stages=(base,))) == Words(short="Before")


def test_true_returns_stand_beside_those_of_random_actions(facts: Facts) -> None:
    heads, rows = comparison(facts)
    assert heads == ["Random actions", "Untrained", "Round 1", "Round 2"]
    table = {row.label: row.cells for row in rows}
    assert set(table) == {"True return", "Gain", "Round's gain", "Starts won"}  # all episodes are equally long
    last = facts.evaluated()[-1].metrics
    for cell, key in zip(table["True return"], ("random_return", "reference_true_return"), strict=False):
        assert cell.value == last[key]
        assert last[f"{key}_low"] <= last[key] <= last[f"{key}_high"]
        assert " to " in cell.interval
    assert [c.value for c in table["True return"][2:]] == [e.metrics["true_return"] for e in facts.evaluated()]
    assert table["True return"][3].change == table["Gain"][3].change == "better"
    assert table["Gain"][3].value == pytest.approx(last["true_return"] - last["reference_true_return"])
    one, two = (e.metrics for e in facts.evaluated())
    assert one["reference_true_return"] == two["reference_true_return"]  # the same starts in every round
    assert one["random_return"] == two["random_return"]
    assert two["previous_true_return"] == one["true_return"]


def test_the_verdict_and_the_limits(facts: Facts) -> None:
    said = verdict(facts)
    assert said.startswith("The policy of round 2 of 2 is kept. On the same 6 starts its true return is -")
    assert "where the untrained policy has" in said
    assert "It learned from 80 answers." in said
    lines = " ".join(limits(facts))
    for part in ("One seed", "over 6 starts", "compares true returns", "number of steps", "cost of 1.", "was judged"):
        assert part in lines


def test_a_policy_that_is_no_better_is_said_to_be_none(facts: Facts) -> None:
    from dataclasses import replace

    row = facts.evaluated()[-1]
    for low, high, said in ((-1.0, 3.0, "no difference that these starts can tell"), (-3.0, -1.0, "worse than before")):
        metrics = {**row.metrics, "gain": (low + high) / 2, "gain_low": low, "gain_high": high}
        changed = replace(row, values={**row.values, "metrics": metrics})
        others = tuple(e for e in facts.evaluations if e is not row)
        assert said in verdict(replace(facts, evaluations=(*others, changed)))
    assert "no difference" not in verdict(facts)


def test_curves_run_over_environment_steps(facts: Facts, html: str) -> None:
    x, _, marks = joined(facts, "improve", "preferences/labels", CLOCK)
    steps = [s.values["steps"] for s in facts.stages if s.activity == "improve"]
    assert np.nanmax(x) == sum(steps)
    assert [mark.x for mark in marks] == [0, steps[0]]
    drawn = {c.title for c in draw(facts, "improve", EPISODE_PANELS, CLOCK) if c.svg}
    assert {"Answers", "Learned reward", "Entropy of the actions", "Clip fraction", "Explained variance"} <= drawn
    assert {"Value loss", "KL to the policy that acted"} <= drawn
    assert {"Fit of the reward model", "Held-out accuracy"} <= set(re.findall(r"<h3>(.*?)</h3>", html))
    more = {c.title for c in others(facts, "improve", CLOCK)}
    assert "preferences/sessions" in more
    assert not more & {CLOCK, "ppo/entropy", "episode/true_return"}


def test_every_episode_is_drawn(facts: Facts) -> None:
    count = sum(map(len, facts.episodes.values()))
    assert count > 400
    chart = while_training(facts)
    assert chart.svg.count("<circle") == sum(len(range(0, n, -(-n // 400))) for n in map(len, facts.episodes.values()))
    assert "random actions" in chart.svg
    from dataclasses import replace

    running = while_training(replace(facts, episodes={}))  # before the first round has handed over
    assert running.svg
    assert "<circle" not in running.svg


def test_where_the_labels_lie(facts: Facts, html: str) -> None:
    rows = {row.label: row.cells for row in coverage(facts)}
    assert len(rows["States visited near a judged one"]) == 2
    assert rows["Cells visited"][0].value == facts.rewards[0].values["coverage"]["cells_visited"]
    text = Page(html).text
    assert "Where the labels lie" in text
    assert "Accuracy against true returns" in text


def test_clips_are_in_the_page(study: Study, html: str) -> None:
    import av

    page = Page(html)
    shown = [a for tag, a in page.tags if tag == "video"]
    assert [a["aria-label"] for a in shown] == [f"{who}, start 1" for who in ("Untrained", "Round 1", "Round 2")]
    stored = [answer.clip for answer in side_by_side(gather(study.folder))[0].answers]
    for attributes, path in zip(shown, stored, strict=True):
        assert {"controls", "muted", "loop"} <= set(attributes)
        kind, _, text = (attributes["src"] or "").partition(",")
        assert kind == "data:video/mp4;base64"
        assert path is not None
        assert base64.b64decode(text) == path.read_bytes()
        with av.open(str(path)) as file:
            assert sum(1 for _ in file.decode(video=0)) == STEPS
    policy = next(a["content"] or "" for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "media-src data:" in policy
    assert len(html) < 3_000_000


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: scripts/install_debian.sh chromium")
def test_a_browser_plays_the_clips(html: str, tmp_path: Path) -> None:
    probe = """<script>
    const clips = [...document.querySelectorAll("video")];
    const loaded = (clip) => new Promise((done) => {
      if (clip.readyState >= 2) done();
      clip.onloadeddata = clip.onerror = done;
    });
    Promise.all(clips.map(loaded)).then(async () => {
      await clips[1].play();
      document.body.dataset.clips = clips.map((c) => [c.error === null, c.videoWidth, c.duration, c.paused]).join(" ");
    });
    </script></body>"""
    (tmp_path / "probed.html").write_text(html.replace("</body>", probe), "utf-8")
    done = open_page(tmp_path / "probed.html", tmp_path / "profile", "--virtual-time-budget=10000", "--dump-dom")
    assert console(done.stderr) == []
    found = re.search(r'data-clips="([^"]*)"', done.stdout)
    assert found is not None
    assert found[1] == " ".join(["true,240,2,false"] * 3)  # 20 steps at 10 a second; one start's clips run together


def test_clips_that_weigh_too_much_are_left_out(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = [answer.clip for answer in side_by_side(gather(study.folder))[0].answers]
    first, last = (stored[i].stat().st_size * 4 // 3 + 8 for i in (0, 2))  # type: ignore[union-attr]
    monkeypatch.setattr(pages, "CLIP_BYTES", first + last)
    html = render(gather(study.folder))
    shown = [a["aria-label"] for tag, a in Page(html).tags if tag == "video"]
    assert shown == ["Untrained, start 1", "Round 2, start 1"]  # before, and the newest after
    assert "Left out to keep the page small" in html


def test_a_clip_is_a_file_beside_the_samples(study: Study, tmp_path: Path) -> None:
    from tropism.study.report.samples import _answer

    (tmp_path / "outside.mp4").write_bytes(b"x")
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "page.html").write_bytes(b"x")
    for name in ("../outside.mp4", "page.html", "missing.mp4", 7, str(tmp_path / "outside.mp4")):
        answer = _answer("Round 1", {"text": "", "clip": name}, tmp_path / "samples")
        assert isinstance(answer, Answer)
        assert answer.clip is None


def test_a_clip_shows_the_episode_that_was_measured(study: Study) -> None:
    stage = next(s for s in study.status().stages if s.name == "base")
    actor = load_policy(study.artifacts.path(stage.folders["policy"])).actor
    played = evaluate(actor, SLIDE, 6, 11)
    for i, segment in enumerate(openings(actor, SLIDE, 6, 11, 6, 1000)):
        assert segment.returned == pytest.approx(played.returns[i], rel=1e-6)
        assert len(segment) == played.lengths[i] == STEPS
    assert [len(s) for s in openings(actor, SLIDE, 6, 11, 2, 7)] == [7, 7]


def test_equal_policies_give_equal_bytes(study: Study, tmp_path: Path) -> None:
    stage = next(s for s in study.status().stages if s.name == "base")
    actor = load_policy(study.artifacts.path(stage.folders["policy"])).actor
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        assert film({"policy": actor}, SLIDE, 6, 11, 2, tmp_path / name) == ""
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["policy-1.mp4", "policy-2.mp4"]
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("control") / "unseen"
    return run(folder, environment__id="TropismUnseen-v0", study__rounds=1, agent__steps=1500)


def test_where_nothing_can_be_drawn_the_stage_goes_on_and_the_report_says_why(unseen: Study) -> None:
    html = write_page(unseen.folder).read_text("utf-8")
    assert "No clips: TropismUnseen-v0 cannot draw itself" in Page(html).text
    assert "True return on each start" in Page(html).text
    assert "media-src" not in html
    assert "<video" not in html


def test_classic_control_without_pygame_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Still:
        def act(self, observations: np.ndarray, seed: int | None = None) -> np.ndarray:
            return np.zeros((len(observations), 1), np.float32)

    monkeypatch.setitem(sys.modules, "pygame", None)
    spec = EnvironmentSpec("Pendulum-v1", horizon="fixed")
    assert "pip install 'gymnasium[classic-control]'" in film({"policy": Still()}, spec, 2, 0, 1, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_fails_half_way_leaves_no_clip(study: Study, tmp_path: Path) -> None:
    stage = next(s for s in study.status().stages if s.name == "base")
    actor = load_policy(study.artifacts.path(stage.folders["policy"])).actor
    for more, why in (({}, "its rgb_array must be bytes"), ({"breaks": True}, "KeyError while TropismSlide-v0 was")):
        spec = EnvironmentSpec("TropismSlide-v0", {"blind_after": STEPS + 5, **more}, horizon="fixed")  # in the second
        assert why in film({"policy": actor}, spec, 6, 11, 2, tmp_path)
        assert not list(tmp_path.iterdir())


def test_clips_can_be_switched_off_and_cost_only_the_evaluation(unseen: Study, tmp_path: Path) -> None:
    copied = shutil.copytree(unseen.folder, tmp_path / "s")
    with Study.open(copied, overrides={"evaluation.clips": 0}) as other:
        before = {s.name: s.values for s in other.status().stages}
        other.run()
        after = {s.name: s.values for s in other.status().stages}
    assert {name for name in after if after[name] != before[name]} == {"evaluate-1"}
    assert clips_note(gather(copied)) == "No clips were asked for (evaluation.clips = 0)."
    assert after["evaluate-1"]["metrics"] == before["evaluate-1"]["metrics"]


def test_the_terminal_says_the_same(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    print_results(study.folder)
    out = capsys.readouterr().out
    for word in ("The same starts", "Random", "Untrained", "True return", "Gain"):
        assert word in out
    print_samples(study.folder, 2, 2)
    out += (samples := capsys.readouterr().out)
    assert re.search(r"start 1\n  Untrained: true return -[\d.]+, 20 steps\n  Round 1: true return", samples)
    print_rollouts(study.folder, 1, 1000, 3)
    out += (rollouts := capsys.readouterr().out)
    assert len(re.findall(r"^ \d{4} +-\d", rollouts, re.MULTILINE)) == 3
    assert "SFT" not in out
    assert "prompt" not in out
    with pytest.raises(StoreError, match="no episode that ended at step 99999 or later"):
        print_rollouts(study.folder, 1, 99_999, 3)
