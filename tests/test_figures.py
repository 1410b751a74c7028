"""The READMEs quote what the committed benchmark results say, to the last digit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import t

ROOT = Path(__file__).resolve().parent.parent
READMES = ("README.md", "README.zh-CN.md")


def result(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def over_seeds(values: list[float]) -> tuple[float, float, float]:
    n, mean = len(values), sum(values) / len(values)
    deviation = (sum((v - mean) ** 2 for v in values) / (n - 1)) ** 0.5
    half = float(t.ppf(0.975, n - 1)) * deviation / n**0.5
    return mean, mean - half, mean + half


def percent(values: list[float]) -> str:
    mean, low, high = (100 * x for x in over_seeds(values))
    return f"{mean:.1f} % ({low:.1f} – {high:.1f})"


def number(values: list[float], digits: int) -> str:
    mean, low, high = over_seeds(values)
    return f"{mean:.{digits}f} ({low:.{digits}f} – {high:.{digits}f})"


@pytest.mark.parametrize("readme", READMES)
def test_tinytalk(readme: str) -> None:
    text, found = (ROOT / readme).read_text("utf-8"), result("tinytalk")
    runs, claims = found["runs"], {c["name"]: c for c in found["claims"]}
    metric = {name: [r["metrics"][name] for r in runs] for name in runs[0]["metrics"]}
    quoted = [percent(metric[f"{who}{a}"]) for a in ("correct", "harmless", "polite") for who in ("reference_", "")]
    quoted += [number(metric["win_rate"], 3), number(metric["win_rate_length_controlled"], 3)]
    quoted += [number(metric["kl_sequence"], 2), f"{over_seeds([r['best_of']['win_rate'] for r in runs])[0]:.3f}"]
    for name in ("reward model against gold, accuracy", "reward model above length-only", "ECE after temperature"):
        quoted.append(f"{claims[name]['value']:.3f}")
    quoted += [f"{claims['noise control: win rate'][end]:.3f}" for end in ("value", "high")]
    assert [q for q in quoted if q not in text] == []
    assert found["holds"]
    assert not found["quick"]


@pytest.mark.parametrize("readme", READMES)
def test_sentiment(readme: str) -> None:
    text, found = (ROOT / readme).read_text("utf-8"), result("sentiment")
    tests = [r["test"] for r in found["runs"]]
    quoted = [f"{tests[0]['reference_share']:.3f}", number([x["share_positive"] for x in tests], 3)]
    quoted.append(f"{over_seeds([x['distinct_2'] / x['reference_distinct_2'] for x in tests])[0]:.3f}")
    mean, low, high = over_seeds([x["kl_nats"] for x in tests])
    assert f"{mean:.1f} nats ({low:.1f} – {high:.1f})" in text
    assert [q for q in quoted if q not in text] == []
    assert found["holds"]
    assert not found["quick"]


def signed(of: dict[str, float]) -> str:
    return f"{of['value']:.3f} ({of['low']:.3f} – {of['high']:.3f})".replace("-", "−")


@pytest.mark.parametrize("readme", READMES)
def test_reward_real(readme: str) -> None:
    """The aim on arguments, and length on dialogues, are not reached: the READMEs say so beside the figures."""
    text, found = (ROOT / readme).read_text("utf-8"), result("reward_real")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    for corpus, measure in (("ukp", "majority"), ("oasst", "top1"), ("oasst", "tau"), ("hh", "majority"),
                            ("pandalm", "majority")):  # fmt: skip
        methods = found["results"][corpus]["methods"]
        quoted = [f"{methods[name][measure]['value']:.3f}" for name in ("length", "tfidf", "surface")]
        quoted += [signed(methods["lexical"][measure])]
        quoted += [signed(found["results"][corpus]["differences"]["lexical - length"][measure])]
        assert any(row.endswith("| " + " | ".join(quoted) + " |") for row in rows), (corpus, measure, quoted)
    apart = found["results"]["ukp"]["differences"]["lexical - majority"]
    assert [q for q in (f"{-apart[m]['value']:.3f}" for m in ("nll", "nll_scaled")) if q not in text] == []
    missed = {c["name"] for c in found["claims"] if not c["holds"]}
    assert missed == {
        "arguments: accuracy on clear majorities",
        "OpenAssistant: top-1 over length-only",
        "OpenAssistant: Kendall's tau over length-only",
    }
    assert not found["quick"]


@pytest.mark.parametrize("readme", READMES)
def test_newcomer(readme: str) -> None:
    text, found = (ROOT / readme).read_text("utf-8"), result("newcomer")
    claim = found["claims"][0]
    quoted = [f"{claim['value']:.1f}", f"{claim['low']:.1f} – {claim['high']:.1f}", f"{found['setup']['wall_s']:.0f} "]
    quoted += [f"{found['reading_minutes']:.1f}", f"{found['words']} "]
    assert [q for q in quoted if q not in text] == []
    assert found["words"] == len((ROOT / found["page"]).read_text("utf-8").split())
    assert found["holds"]


@pytest.mark.parametrize("readme", READMES)
def test_studio(readme: str) -> None:
    text = (ROOT / readme).read_text("utf-8")
    claims = {c["name"]: c for c in result("studio_http")["claims"]}
    for database in ("sqlite", "postgresql"):
        assert f"{claims[f'http/{database}/pairs_per_s']['value']:.0f} " in text
    loop = {c["name"]: c for c in result("studio_loop")["claims"]}
    won, p95 = loop["gold win rate over SFT"], loop["submit and claim while PPO trains, p95 in seconds"]
    quoted = [f"{won['value']:.3f} ({won['low']:.3f} – {won['high']:.3f})", f"{p95['value']:.2f} "]
    quoted.append(f"{loop['labels used']['value']:.0f} ")
    assert [q for q in quoted if q not in text.replace("（", " (").replace("）", ")")] == []


def test_pages_of_figures() -> None:
    """Their tables are those of the committed results."""
    import sys

    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from performance_tables import PAGES, rendered
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    for path, tables in zip(PAGES, (7, 11), strict=True):
        page = path.read_text("utf-8")
        assert "not measured yet |" not in page, "a table without its result"
        assert rendered(page) == page
        begun = sum(page.count(f"<!-- {kind}:") for kind in ("claims", "sides", "returns"))
        assert begun == page.count("<!-- end -->") == tables


@pytest.mark.parametrize(
    ("readme", "said"), [("README.md", "{} of {} seeds"), ("README.zh-CN.md", "{1} 个种子中有 {0} 个")]
)
def test_backflip(readme: str, said: str) -> None:
    found = result("backflip")
    landed = sum(row["share"] >= 0.5 for row in found["900"])
    assert found["claims"][0]["value"] == landed
    assert said.format(landed, len(found["seeds"])) in (ROOT / readme).read_text("utf-8")
    assert max(row["labels"] for row in found["900"]) <= 900


@pytest.mark.parametrize("readme", READMES)
def test_christiano(readme: str) -> None:
    text, found = (ROOT / readme).read_text("utf-8"), result("christiano")
    claims = {c["name"]: c for c in found["claims"]}
    for labels in (700, 1400):
        c = claims[f"normalised return with {labels} labels, interquartile mean over 6 tasks"]
        opening, closing = "（）" if "zh" in readme else (" (", ")")
        assert f"{c['value']:.2f}{opening}{c['low']:.2f} – {c['high']:.2f}{closing}" in text, labels


@pytest.mark.parametrize("readme", READMES)
def test_control_learning(readme: str) -> None:
    text, found = (ROOT / readme).read_text("utf-8"), result("control_learning")
    claims = {c["name"].split(":")[0]: c for c in found["claims"]}
    opening, closing = "（）" if "zh" in readme else (" (", ")")
    for group in ("all tasks", "dqn"):
        c = claims[group]
        assert f"{c['value']:+.2f}{opening}{c['low']:+.2f} – {c['high']:+.2f}{closing}".replace("-", "−") in text
    assert claims["all tasks"]["holds"]
    assert sum(w["claimed"] for w in found["works"].values()) == 9


def test_learning_speed() -> None:
    """What the performance page says of it in words."""
    text, found = (ROOT / "docs" / "performance.md").read_text("utf-8"), result("learning_speed")["at_leash"]
    text = " ".join(text.split())
    ours, theirs = ([seed[f"{side}_cpu_s"] for seed in found["seeds"]] for side in ("ours", "trl"))
    assert f"({found['target_reward']:.3f}, mean of three seeds)" in text
    assert f"ours takes {min(ours):.0f} to {max(ours):.0f} CPU seconds" in text
    assert f"TRL {min(theirs):.0f} to {max(theirs):.0f}." in text
