"""The report's curves: which metrics share a panel, how rounds follow one another, and what is drawn besides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from tropism.study.report.charts import Level, Mark, Series, line_chart
from tropism.study.report.data import Facts


@dataclass(frozen=True)
class Panel:
    """One chart: a title, the metrics it shows with their names in the legend, and what the axis says."""

    title: str
    metrics: tuple[tuple[str, str], ...]
    unit: str
    log: bool = False
    zero: bool = False
    levels: tuple[Level, ...] = ()


@dataclass(frozen=True)
class Chart:
    """A drawn panel, or the reason why there is none. ``legend``: (name, colour)."""

    title: str
    svg: Markup
    legend: list[tuple[str, int]] = field(default_factory=list)
    why_empty: str = ""


PPO_PANELS = (
    Panel(
        "Reward",
        (
            ("reward/learned_mean", "learned score"),
            ("ppo/score_mean", "with penalties"),
            ("ppo/gold_mean", "gold"),
            ("ppo/reward_mean", "reward paid"),
        ),
        "mean",
    ),
    Panel("KL to the reference", (("kl/ref_k1", "k1"), ("kl/ref_k3", "k3")), "nats per answer", zero=True),
    Panel("Entropy", (("ppo/entropy", "entropy"),), "nats per token"),
    Panel("Length", (("length/completion_tokens", "tokens"),), "tokens per answer"),
    Panel("Clip fraction", (("ppo/clip_fraction", "clipped"),), "share of tokens", zero=True),
    Panel("KL to the policy that sampled", (("kl/old", "KL(π_old‖π_θ)"),), "nats per token", zero=True),
    Panel("Policy loss", (("ppo/policy_loss", "policy loss"),), "loss"),
    Panel("Value loss", (("ppo/value_loss", "value loss"),), "loss", zero=True),
    Panel("Gradient norm before clipping", (("ppo/grad_norm", "norm"),), "norm", log=True),
    Panel("KL coefficient", (("ppo/kl_coef", "coefficient"),), "weight", zero=True),
    Panel(
        "Contracts of the first mini-batch",
        (("check/ratio_max", "largest |log π_θ/π_old|"), ("check/mismatch_mean", "mean |sampler − trainer|")),
        "nats per token",
        log=True,
    ),
)
SFT_PANELS = (
    Panel("Supervised fine-tuning", (("sft/loss", "loss"),), "nats per token"),
    Panel("Learning rate", (("sft/learning_rate", "learning rate"),), "rate", zero=True),
)
REWARD_PANELS = (
    Panel(
        "Fit of the reward model",
        (("reward/nll_train", "train"), ("reward/nll_validation", "held out")),
        "negative log-likelihood",
    ),
    Panel("Held-out accuracy", (("reward/accuracy_validation", "held out"),), "share", levels=(Level(0.5, "chance"),)),
)
_SECONDS = ("time/", "cpu/")
CLOCK = "environment/steps"
"""Environment steps of a round, logged at every turn: the axis of what is trained in environments."""
_AGENTS = ("ppo", "a2c", "reinforce", "dqn", "sac")


def _of_agents(metric: str, name: str) -> tuple[tuple[str, str], ...]:
    """A metric under whichever algorithm logged it."""
    return tuple((f"{algorithm}/{metric}", name) for algorithm in _AGENTS)


EPISODE_PANELS = (
    Panel("Answers", (("preferences/labels", "answered"), ("preferences/asked", "asked")), "questions", zero=True),
    Panel("Learned reward", _of_agents("reward_mean", "reward paid"), "mean of a step"),
    Panel("Entropy of the actions", _of_agents("entropy", "entropy"), "nats per action"),
    Panel("KL to the policy that acted", (("kl/old_k3", "KL(π_old‖π_θ)"),), "nats per action", zero=True),
    Panel("Clip fraction", _of_agents("clip_fraction", "clipped"), "share of actions", zero=True),
    Panel("Explained variance", _of_agents("explained_variance", "explained"), "share of the returns' variance"),
    Panel("Value loss", _of_agents("value_loss", "value loss"), "loss", zero=True),
    Panel("Policy loss", _of_agents("policy_loss", "policy loss"), "loss"),
    Panel("Gradient norm before clipping", _of_agents("grad_norm", "norm"), "norm", log=True),
    Panel("Learning rate", _of_agents("learning_rate", "learning rate"), "rate", zero=True),
)


def draw(facts: Facts, activity: str, panels: Sequence[Panel], clock: str = "") -> list[Chart]:
    """The panels over the stages of one activity, rounds one after the other along the axis: that of steps, or of the
    metric ``clock``, by whose values the others are then placed."""
    return [_draw(facts, activity, panel, clock) for panel in panels]


def others(facts: Facts, activity: str, clock: str = "") -> list[Chart]:
    """A chart for every other metric that the stages of an activity logged, but for seconds (the report sums those)."""
    shown: tuple[Panel, ...] = REWARD_PANELS + (EPISODE_PANELS if clock else PPO_PANELS + SFT_PANELS)
    known = {name for panel in shown for name, _ in panel.metrics} | {clock, "episode/true_return"}
    stages = [s.name for s in facts.stages if s.activity == activity]
    names = {name for stage in stages for name in facts.metrics.get(stage, {})}
    rest = sorted(name for name in names - known if not name.startswith(_SECONDS))
    charts = [_draw(facts, activity, Panel(name, ((name, name),), "value"), clock) for name in rest]
    return [chart for chart in charts if chart.svg]


def _draw(facts: Facts, activity: str, panel: Panel, clock: str = "") -> Chart:
    series: list[Series] = []
    marks: list[Mark] = []
    for colour, (metric, name) in enumerate(panel.metrics):
        x, y, marks = joined(facts, activity, metric, clock)
        if y and any(map(math.isfinite, y)):
            series.append(Series(name, x, y, colour=colour))
    shown = marks if len(marks) > 1 else []
    label = "environment step" if clock else "step"
    svg = line_chart(
        series, x_label=label, y_label=panel.unit, log_y=panel.log, zero=panel.zero, marks=shown, levels=panel.levels
    )
    if svg:
        return Chart(panel.title, svg, [(s.name, s.colour) for s in series])
    metrics = ", ".join(metric for metric, _ in panel.metrics)
    return Chart(panel.title, svg, why_empty=f"No {metrics} was logged by any {activity} stage.")


def joined(facts: Facts, activity: str, metric: str, clock: str = "") -> tuple[list[float], list[float], list[Mark]]:
    """A metric over all stages of an activity: steps (or what ``clock`` counts) continue from round to round, and each
    round has a mark."""
    x: list[float] = []
    y: list[float] = []
    marks: list[Mark] = []
    start = 0.0
    for stage in facts.stages:
        if stage.activity != activity:
            continue
        table = facts.metrics.get(stage.name, {})
        steps = {step: float(step) for rows in table.values() for step, _ in rows}
        if clock:
            steps = dict(table.get(clock, []))
        if not steps:
            continue
        marks.append(Mark(start, f"round {stage.round}"))
        rows = [(steps[step], value) for step, value in table.get(metric, []) if step in steps]
        x += [start + at for at, _ in rows]
        y += [value for _, value in rows]
        if rows:
            x.append(math.nan)  # a gap: the next round begins a line of its own
            y.append(math.nan)
        start += max(steps.values()) + (not clock)
    return x, y, marks


def gold_against_proxy(facts: Facts) -> Chart:
    """Learned score and gold over the square root of the KL to the reference (Gao et al. 2022, their figure 1)."""
    title = "Gold against proxy"
    series = []
    proxies = ("reward/learned_mean", "ppo/score_mean")  # the second holds penalties and functions, too
    for colour, (metrics, name) in enumerate(((proxies, "learned score (proxy)"), (("ppo/gold_mean",), "gold"))):
        points = []
        for stage in facts.stages:
            table = facts.metrics.get(stage.name, {})
            kl = dict(table.get("kl/ref_k1", []))
            rows = next((table[metric] for metric in metrics if metric in table), [])
            points += [(math.sqrt(max(0.0, kl[s])), v) for s, v in rows if s in kl and math.isfinite(kl[s])]
        points.sort()
        if points:
            series.append(Series(name, [p[0] for p in points], _smooth([p[1] for p in points]), colour=colour))
    svg = line_chart(series, x_label="√KL to the reference (√nats)", y_label="mean, running")
    why = (
        ""
        if svg
        else "It needs kl/ref_k1 with reward/learned_mean, ppo/score_mean or ppo/gold_mean from an improve stage."
    )
    return Chart(title, svg, [(s.name, s.colour) for s in series], why)


def _smooth(values: list[float], half: int = 2) -> list[float]:
    """A centred running mean over up to 2·half + 1 finite neighbours."""
    smooth = []
    for i in range(len(values)):
        near = [v for v in values[max(0, i - half) : i + half + 1] if math.isfinite(v)]
        smooth.append(sum(near) / len(near) if near else math.nan)
    return smooth
