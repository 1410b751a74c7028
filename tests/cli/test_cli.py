"""The command line on the bandit: a study's life, errors with their fix, exit codes, and hostile text made harmless."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fake_study import make_study
from tropism import __version__
from tropism.cli.main import main
from tropism.feedback.people import register_person
from tropism.study.study import Study

TESTS = Path(__file__).resolve().parent.parent
BANDIT = {"study.domain": "bandit:BanditDomain", "feedback.queries_per_round": 30, "improve.steps": 6}
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "study"
    with Study.create(folder, overrides=BANDIT) as study:
        study.run()
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("cli") / "texts")


def test_version_and_help(cli: Cli) -> None:
    assert cli("--version") == (0, f"tropism {__version__}\n", "")
    status, out, _ = cli("--help")
    assert status == 0
    for command in ("demo", "new", "run", "status", "report", "recipes", "doctor", "feedback", "gc", "sample"):
        assert f"\n  {command} " in out


def test_new_makes_a_study_and_will_not_overwrite_it(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    status, out, _ = cli("new", folder, "--recipe", "tinytalk", "--set", "ppo.steps=3")
    assert status == 0
    assert f"tropism run {folder}" in out
    assert "steps = 3" in (folder / "study.toml").read_text()
    status, _, err = cli("new", folder)
    assert status == 2
    assert err.startswith(f"error: {folder} has a study already\nfix: ")


def test_new_takes_a_recipe_file_with_paths_seen_from_it(cli: Cli, tmp_path: Path) -> None:
    place = tmp_path / "recipes"
    place.mkdir()
    (place / "prompts.txt").write_text("one\ntwo\n")
    (place / "truth.py").write_text("def gold(prompts, completions, rows):\n    return [0.0] * len(prompts)\n")
    recipe = place / "mine.toml"
    recipe.write_text(
        'study.domain = "language"\nworld.prompts = "prompts.txt"\nworld.gold = "truth.py:gold"\n'
        'model.path = "some/model"\nreward.functions = { "truth.py:gold" = 1.0 }\n'
    )
    status, _, err = cli("new", tmp_path / "s", "--recipe", recipe, "--set", "ppo.steps=3")
    assert (status, err) == (0, "")
    values = Study.open(tmp_path / "s").config.values
    assert values["world"]["prompts"] == str(place / "prompts.txt")
    assert values["world"]["gold"] == f"{place / 'truth.py'}:gold"
    assert values["reward"]["functions"] == {f"{place / 'truth.py'}:gold": 1.0}
    assert values["model"]["path"] == "some/model"
    assert values["ppo"]["steps"] == 3
    recipe.write_text("study.domain = \n")
    status, _, err = cli("new", tmp_path / "t", "--recipe", recipe)
    assert status == 2
    assert "is not valid TOML" in err


def test_run_goes_to_the_end_and_prints_the_table(cli: Cli, tmp_path: Path) -> None:
    Study.create(tmp_path / "s", overrides=BANDIT).close()
    status, out, err = cli("run", tmp_path / "s")
    assert (status, err) == (0, "")
    assert "base" in out
    assert "improve-2" in out
    assert "Held-out prompts (95 % intervals)" in out
    assert "SFT" in out
    assert "Round 2" in out
    assert f"report: {tmp_path / 's' / 'report.html'}" in out
    assert (tmp_path / "s" / "report.html").stat().st_size > 20_000
    before = (tmp_path / "s" / "study.db").stat().st_mtime_ns
    again = cli("run", tmp_path / "s")
    assert again[0] == 0
    assert before <= (tmp_path / "s" / "study.db").stat().st_mtime_ns


def test_progress_in_a_pipe_is_few_plain_lines(cli: Cli, tmp_path: Path) -> None:
    Study.create(tmp_path / "s", overrides={**BANDIT, "study.rounds": 1, "improve.steps": 40}).close()
    _, out, _ = cli("run", tmp_path / "s")
    improving = [line for line in out.splitlines() if line.startswith("improve-1: ")]
    assert improving[-1].startswith("improve-1: improve: 40/40 ")
    assert len(improving) <= 12
    assert "\x1b" not in out


def test_status_says_how_far_it_is(cli: Cli, finished: Path, tmp_path: Path) -> None:
    status, out, _ = cli("status", finished)
    assert status == 0
    assert "finished" in out
    assert "decide-2" in out
    assert "nobody runs it" in out
    Study.create(tmp_path / "s", overrides=BANDIT).close()
    _, out, _ = cli("status", tmp_path / "s")
    assert "0 of 2 rounds done" in out
    assert f"go on with: tropism run {tmp_path / 's'}" in out.replace("\n", " ").replace("  ", " ")


def test_report_and_gc(cli: Cli, finished: Path) -> None:
    status, out, _ = cli("report", finished)
    assert status == 0
    assert Path(out.strip()).is_file()
    status, out, _ = cli("gc", finished)
    assert status == 0
    assert out.startswith("freed ")


def test_recipes_are_listed_with_what_they_are(cli: Cli) -> None:
    status, out, _ = cli("recipes")
    assert status == 0
    line = next(line for line in out.splitlines() if line.startswith("tinytalk "))
    assert len(line.split()) > 3


def test_feedback_verify_finds_a_changed_vote(cli: Cli, finished: Path, tmp_path: Path) -> None:
    status, out, _ = cli("feedback", "verify", finished)
    assert status == 0
    assert "the feedback is intact" in out
    Study.create(tmp_path / "s", overrides={**BANDIT, "study.rounds": 1}).close()
    with Study.open(tmp_path / "s") as study:
        study.run()
        with study.database.write() as connection:
            for (name,) in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").all():
                connection.exec_driver_sql(f"DROP TRIGGER {name}")
            connection.exec_driver_sql('UPDATE events SET value = \'{"choice": "tie", "strength": 3}\' WHERE seq = 1')
    status, out, err = cli("feedback", "verify", tmp_path / "s")
    assert status == 1
    assert "problem: " in err
    assert "was changed" in out


def test_feedback_goes_out_and_comes_in_again(cli: Cli, tmp_path: Path) -> None:
    for name in ("one", "two"):
        Study.create(tmp_path / name, overrides=BANDIT).close()
    rows = [{"prompt": f"p{i}", "chosen": "good", "rejected": "bad", "annotator": "Ada"} for i in range(4)]
    source = tmp_path / "pairs.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"prompt": "x"}\n')
    status, _, err = cli("feedback", "import", tmp_path / "one", source)
    assert status == 2
    assert "line 5" in err
    assert "fix: " in err
    assert "0 events" in cli("feedback", "verify", tmp_path / "one")[1]
    status, out, err = cli("feedback", "import", tmp_path / "one", source, "--skip-bad")
    assert (status, out) == (0, "4 events imported, 0 known already, 1 rows rejected\n")
    assert "line 5" in err
    assert cli("feedback", "export", tmp_path / "one", tmp_path / "out.jsonl")[0] == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 4
    assert "Ada" not in (tmp_path / "out.jsonl").read_text()
    assert cli("feedback", "import", tmp_path / "two", tmp_path / "out.jsonl")[1].startswith("4 events imported")


def test_feedback_trace_goes_from_a_vote_to_policies_and_back(cli: Cli, finished: Path) -> None:
    with Study.open(finished) as study, study.database.read() as connection:
        asked = "SELECT e.id, q.round FROM events e JOIN queries q ON q.id = e.query_id"
        votes = dict(tuple(row) for row in connection.exec_driver_sql(asked))
        policies = connection.exec_driver_sql("SELECT id, round FROM policies ORDER BY round").all()
        models = connection.exec_driver_sql("SELECT id FROM reward_models ORDER BY round").scalars().all()
    (base, _), (first, _), (second, _) = policies
    early, late = (next(id_ for id_, round_ in votes.items() if round_ == r) for r in (1, 2))
    status, out, _ = cli("feedback", "trace", finished, early[:16])
    assert status == 0
    assert out.startswith(f"event {early} shaped 2 policies\n")
    assert all(f"policy {id_}, " in out for id_ in (first, second))
    assert all(f"reward model {id_}, " in out for id_ in models)
    out = cli("feedback", "trace", finished, late)[1]
    assert f"policy {second}, round 2" in out
    assert first not in out
    assert models[0] not in out
    out = cli("feedback", "trace", finished, second)[1]
    assert out.startswith(f"policy {second} was shaped by {len(votes)} events\n")
    assert "round 1, oracle: 30 events\nround 2, oracle: 30 events\n" in out
    assert f"… and {len(votes) - 5} more" in out
    assert all(f"reward model {id_}, " in out for id_ in models)
    assert cli("feedback", "trace", finished, base[:20])[1] == f"policy {base} was shaped by 0 events\n"


def test_feedback_trace_of_nothing_or_of_many_says_so(cli: Cli, finished: Path) -> None:
    status, _, err = cli("feedback", "trace", finished, "nosuch")
    assert status == 2
    assert err.startswith("error: no event and no policy has an id that begins with 'nosuch'\nfix: policies of this")
    with Study.open(finished) as study, study.database.read() as connection:
        ids = connection.exec_driver_sql("SELECT id FROM events").scalars().all()
    common = next(a[0] for a in ids if sum(b[0] == a[0] for b in ids) > 1)  # 60 ids begin with 16 digits
    status, _, err = cli("feedback", "trace", finished, common)
    assert status == 2
    assert f"error: {common!r} is the beginning of several ids: " in err
    assert cli("feedback", "trace", finished, "%")[0] == 2  # no pattern


def test_feedback_erase_removes_a_person(cli: Cli, tmp_path: Path) -> None:
    Study.create(tmp_path / "s", overrides=BANDIT).close()
    with Study.open(tmp_path / "s") as study:
        pseudonym = register_person(study.database, "Ada Lovelace", "ada@example.org")
    status, out, _ = cli("feedback", "erase", tmp_path / "s", pseudonym)
    assert status == 0
    assert f"{pseudonym} is erased" in out
    assert b"Ada Lovelace" not in (tmp_path / "s" / "study.db").read_bytes()
    assert cli("feedback", "erase", tmp_path / "s", "nobody")[0] == 2


def test_trap_50_samples_and_rollouts_cannot_steer_the_terminal(cli: Cli, texts: Path) -> None:
    status, out, _ = cli("sample", texts, "--round", 2, "--count", 2)
    assert status == 0
    assert "SFT: sure <script>alert(1)</script> ⟨RLO⟩gnp.exe ⟨ESC⟩[31mred⟨ESC⟩[0m zero⟨ZWSP⟩width [bold]x[/bold]" in out
    assert "Round 2: " in out
    status, out, _ = cli("sample", texts, "--round", 1, "--step", 3)
    assert status == 0
    assert "⟨ESC⟩[31m" in out
    assert "learned +0.500  missing_end +0.000  total +0.500  KL (nats) +0.300  gold +0.800" in out
    assert "\x1b" not in out
    assert "\u202e" not in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sample", "{texts}", "--round", "7"], "there are samples of round 1, 2"),
        (["sample", "{texts}", "--round", "1", "--step", "99"], "its steps are 3 to 3"),
        (["status", "{tmp}/none"], "is no study"),
        (["run", "{tmp}/none"], "fix: tropism new"),
        (["run", "{finished}", "--gold-rate", "0.1", "--solo"], "--solo, --gold-rate without --studio"),
        (["run", "{finished}", "--studio", "--gold-rate", "1"], "gold_rate = 1"),
        (["run", "{finished}", "--studio", "--lease", "0"], "--lease 0"),
        (["studio", "{finished}", "--lease", "nan"], "--lease nan"),
        (["studio", "{finished}", "--lease", "inf"], "--lease inf"),
        (["run", "{finished}", "--studio", "--solo", "--name", "judges.lab"], "--solo with --name judges.lab"),
        (["new", "{tmp}/a", "--recipe", "tinytlk"], "did you mean 'tinytalk'?"),
        (["new", "{tmp}/a", "--set", "ppo.stepz=3"], "did you mean 'steps'?"),
        (["new", "{tmp}/a", "--set", "nonsense"], "is not KEY=VALUE"),
        (["new", "{tmp}/a", "--recipe", "{tmp}/none.toml"], "none.toml cannot be read"),
        (["feedback", "import", "{finished}", "{tmp}/none.jsonl"], "none.jsonl"),
    ],
)
def test_errors_name_the_problem_and_the_fix(
    cli: Cli, arguments: list[str], says: str, texts: Path, finished: Path, tmp_path: Path
) -> None:
    filled = [a.format(texts=texts, tmp=tmp_path, finished=finished) for a in arguments]
    status, out, err = cli(*filled)
    assert status == 2
    assert err.startswith("error: ")
    assert "\nfix: " in err
    assert says in err
    assert "Traceback" not in out + err
    assert not (tmp_path / "a").exists()


def test_a_bug_shows_its_traceback(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bandit

    monkeypatch.setattr(bandit.BanditDomain, "initial_policy", lambda self, run: 1 / 0)
    Study.create(tmp_path / "s", overrides=BANDIT).close()
    with pytest.raises(ZeroDivisionError):
        main(["run", str(tmp_path / "s")])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_ends_with_the_signals_code_and_goes_on(tmp_path: Path, number: int, code: int) -> None:
    folder = tmp_path / "s"
    Study.create(folder, overrides={**BANDIT, "improve.steps": 4000}).close()
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tropism", "run", str(folder)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    mark = folder / "scratch" / "status.json"
    while not (mark.exists() and '"improve-1"' in mark.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "run the same command again to go on" in err
    assert "Traceback" not in err
