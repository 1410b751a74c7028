"""What jobs print: plans, what came out in a few lines, assessments, answers. All of it is in OUT/run/result.json.

Text from data and models goes through ``visible`` and is printed without markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tropism.cli.show import console
from tropism.study.report.visible import visible

if TYPE_CHECKING:
    from tropism.engine.floor import Rates
    from tropism.jobs.plan import Plan
    from tropism.monitoring.phases import PhaseCost

Rows = list[tuple[str, str]]
_MOST, _WIDEST = 5, 40  # parts shown of each kind, characters of their names


def print_plan(plan: Plan) -> None:
    """A plan as aligned lines."""
    console().print(f"plan of tropism {plan.job} (nothing was written)", markup=False)
    print_rows([*plan.lines, *([("result", str(plan.out))] if plan.out is not None else [])])


def print_sft(values: Mapping[str, Any], out: Path) -> None:
    """Losses before and after."""
    rows, sft = values["rows"], values["sft"]
    lines = _read(values["data"])
    lines.append(("trained on", f"{rows['train']} rows, {sft['tokens']:.0f} tokens in {sft['steps']:.0f} steps"))
    if sft["rows_cut"] or sft["rows_skipped"]:
        lines.append(("too long", f"{sft['rows_cut']:.0f} rows cut from the left, {sft['rows_skipped']:.0f} left out"))
    if values["loss_before"] is not None:
        losses = f"{values['loss_before']:.3f} before, {values['loss_after']:.3f} after"
        lines.append(("held-out loss", f"{losses} (nats per token, {rows['held_out']} rows)"))
    finish(lines, out)


def print_fit(values: Mapping[str, Any], out: Path) -> None:
    """A reward model's fit and its assessment."""
    fit, counts = values["fit"], values["judgements"]
    lines = _read(values["source"])
    lines.append(("judgements", ", ".join(f"{count} {split}" for split, count in counts["judgements"].items())))
    lines += [("dropped", f"{count}: {visible(reason)}") for reason, count in counts["dropped"].items()]
    lines.append(("fit", f"{fit['epochs']} epochs, the best was {fit['best_epoch']}"))
    if values["rows_cut"]:
        lines.append(("too long", f"{values['rows_cut']} answers with their prompts lost something to fit"))
    finish(lines + assessment_lines(values["assessment"]), out)


def print_ppo(values: Mapping[str, Any], out: Path) -> None:
    """Score, KL and length of the first and the last step."""
    first, last, metrics = values["first"], values["last"], values["metrics"]
    lines = _read(values["prompts"])
    lines.append(("steps", f"{values['steps']}" + _if(values["rollbacks"], " rolled back after divergence")))
    lines.append(("score", f"{first['score']:+.3f} in the first step, {last['score']:+.3f} in the last"))
    lines.append(("KL", f"{last['kl_sequence']:.2f} nats a completion to the reference"))
    ends = f"{100 * metrics['length/missing_end']:.0f} % cut by the limit"
    lines.append(("length", f"{metrics['length/completion_tokens']:.1f} tokens, {ends}"))
    finish(lines, out)


def print_profile(out: Path, stage: str) -> None:
    """What each phase of a job cost, beside the floor where it was measured, and what it ran on."""
    from tropism.jobs.profile import read_profile
    from tropism.monitoring.phases import together

    profile = read_profile(out, stage)
    heads = ["phase", "wall s", "CPU s", "share", "tokens/s", "floor CPU s", "x floor"]
    rows = [_cost(cost, profile.rates) for cost in (*profile.costs, together(profile.costs))]
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    for row in (heads, *rows):
        cells = [
            f"{row[0]:<{widths[0]}}",
            *(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        console().print("  " + "  ".join(cells), markup=False, soft_wrap=True)
    note = [] if profile.rates else [("floor", "not measured: that is done by a run with --profile, when it ends")]
    print_rows([*profile.facts, *note])


def _cost(cost: PhaseCost, rates: Rates | None) -> list[str]:
    """A phase as cells."""
    floor = None if rates is None else cost.floor_cpu_s(rates.wide, rates.decode)
    above = cost.cpu_s / floor if floor and cost.cpu_s is not None else None
    shown = (
        (cost.wall_s, ".1f"), (cost.cpu_s, ".1f"), (cost.share, ".0%"), (cost.tokens_per_s, ".0f"),
        (floor, ".2f"), (above, ".1f"),
    )  # fmt: skip
    return [cost.phase, *("–" if value is None else format(value, form) for value, form in shown)]


def print_evaluation(values: Mapping[str, Any], out: Path) -> None:
    """Win rates, KL, length and diversity beside the reference's."""
    m = values["metrics"]
    lines = [("prompts", f"{values['prompts']['answered']}"), ("judge", visible(Path(values["judge"]).name))]
    for name, text in (("win_rate", "win rate"), ("win_rate_length_controlled", "at equal length")):
        if name in m:
            lines.append((text, _interval(m, name, 3)))
    lines.append(("KL", f"{_interval(m, 'kl_sequence', 2)} nats a completion to the reference"))
    for name, text in (("length_mean", "length"), ("missing_end", "cut"), ("distinct_2", "distinct-2")):
        lines.append((text, f"{m[name]:.3g}, the reference's {m[f'reference_{name}']:.3g}"))
    lines += [("note", visible(reason)) for reason in values["reasons"]]
    finish(lines, out)


def print_assessment(values: Mapping[str, Any], out: Path | None) -> None:
    """A reward model on data that it has not seen."""
    lines = _read(values["source"])
    lines += [("dropped", f"{count}: {visible(reason)}") for reason, count in values["judgements"]["dropped"].items()]
    if values["rows_cut"]:
        lines.append(("too long", f"{values['rows_cut']} answers with their prompts lost something to fit"))
    lines += assessment_lines(values["assessment"])
    print_rows([*lines, *([("all figures", str(out))] if out is not None else [])])


def assessment_lines(found: Mapping[str, Any]) -> Rows:
    """A reward model's assessment, one line per measure; shares with their 95 % intervals."""
    validation = found["validation"]
    if validation is None:
        return [("assessment", "none: there are no held-out comparisons"), *_scales(found)]
    lines = [("accuracy", _share(validation["accuracy"]))]
    if validation["accuracy_decided"] and validation["ties"]:
        lines.append(("without ties", _share(validation["accuracy_decided"])))
    if found.get("majority"):
        lines.append(("of majorities", _share(found["majority"]["accuracy"])))
    if validation["length_only"]:
        lines.append(("length only", _share(validation["length_only"])))
        lines.append(("above it", f"{validation['over_length_only']:+.3f}"))
    calibrated = validation["log_likelihood_calibrated"]
    after = "" if calibrated is None else f", {calibrated:.3f} after temperature {validation['temperature']:.2g}"
    lines.append(("log-likelihood", f"{validation['log_likelihood']:.3f} nats a vote{after} (a coin: -0.693)"))
    lines.append(("ECE", f"{validation['ece']:.3f} (a perfect model shows {validation['ece_noise']:.3f} here)"))
    return lines + _by_length(found) + _rankings(found) + _parts(found) + _scales(found)


def _by_length(found: Mapping[str, Any]) -> Rows:
    """Accuracy in quartiles of the difference in length, and where the shorter one was chosen."""
    table = found.get("by_length")
    if not table:
        return []
    lines = [(f"length ±{part['low']:.0f}–{part['high']:.0f}", _share(part["accuracy"])) for part in table["quartiles"]]
    for key in ("shorter_chosen", "longer_chosen"):
        if table[key]:
            lines.append((key.replace("_", " "), _share(table[key])))
    return lines


def _rankings(found: Mapping[str, Any]) -> Rows:
    """Top-1 and Kendall's tau of rankings, beside chance and length alone."""
    k_way = found.get("rankings")
    if not k_way:
        return []
    lines = [("top-1 of K", f"{_bounds(k_way['top1'])}  {k_way['rows']} rows, chance {k_way['top1_chance']:.3f}")]
    if k_way["top1_length_only"]:
        lines.append(("  length only", _bounds(k_way["top1_length_only"])))
    if k_way["tau"]:
        lines.append(("Kendall's tau", _bounds(k_way["tau"])))
    if k_way["tau_length_only"]:
        lines.append(("  length only", _bounds(k_way["tau_length_only"])))
    return lines


def _parts(found: Mapping[str, Any]) -> Rows:
    """Accuracy by group, stream and annotator; the worst ones where there are many."""
    lines: Rows = []
    for kind, title in (("group", "group"), ("stream", "stream"), ("teacher", "annotator")):
        table = found.get(f"by_{kind}") or {}
        if len(table) < 2:
            continue
        shown = sorted(table.items(), key=lambda item: item[1]["value"])[:_MOST]
        lines += [(f"{title} {visible(name)[:_WIDEST]}", _share(share)) for name, share in shown]
        if len(table) > len(shown):
            lines.append(("", f"and {len(table) - len(shown)} more {title}s that do better"))
    return lines


def _scales(found: Mapping[str, Any]) -> Rows:
    return [
        (name, f"{key} {found[name][key]:.3f} of {found[name]['n']:.0f}")
        for name, key in (("ratings", "spearman"), ("labels", "auc"))
        if found.get(name)
    ]


def _bounds(interval: Mapping[str, Any]) -> str:
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def print_answers(rows: Sequence[Mapping[str, Any]], most: int | None) -> None:
    """Prompts and answers, with what reward models say of them; the first ``most``, or all."""
    out = console()
    for row in rows if most is None else rows[:most]:
        prompt = row["prompt"]
        shown = prompt if isinstance(prompt, str) else " / ".join(f"{m['role']}: {m['content']}" for m in prompt)
        out.print(f"prompt: {visible(shown)}", markup=False, soft_wrap=True)
        out.print(f"answer: {visible(row['completion'])}", markup=False, soft_wrap=True)
        scores = "  ".join(f"{visible(name)} {value:+.3f}" for name, value in row["reward"].items())
        out.print(f"        {row['tokens']} tokens, {row['stop']}  {scores}".rstrip(), markup=False, soft_wrap=True)


def _read(source: Mapping[str, Any]) -> Rows:
    """What was read, and what was not."""
    text = f"{source['rows']} rows of {Path(str(source['name'])).name} read as {source['format']}"
    text += _if(source["rejected"], " rejected") + _if(source.get("empty_rows"), " without a record")
    notes = {**source["repaired"], **source["noted"], **source["left_out"]}
    return [("data", visible(text)), *[("", f"{count}: {visible(rule)}") for rule, count in notes.items()]]


def _if(count: int | None, what: str) -> str:
    return f", {count}{what}" if count else ""


def _share(share: Mapping[str, Any]) -> str:
    return f"{share['value']:.3f} [{share['low']:.3f}, {share['high']:.3f}]  {share['pairs']} pairs"


def _interval(metrics: Mapping[str, float], name: str, digits: int) -> str:
    value, low, high = (metrics[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def finish(lines: Rows, out: Path) -> None:
    """Rows, then where the result and all figures are."""
    print_rows([*lines, ("result", str(out)), ("all figures", str(out / "run" / "result.json"))])


def print_rows(rows: Rows) -> None:
    """Names and values, aligned."""
    out = console()
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        out.print(f"  {name:<{width}}  {text}", markup=False, soft_wrap=True)
