"""Bad preference files: every row named by its line, nothing imported unless asked for, memory bounded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bad_input_cases import SMALL, check_refusal, cli, contents, own_world, refused, settings, write_rows

from tropism.study.study import Study

GOOD = {"prompt": "w1 w2", "chosen": "w3", "rejected": "w4"}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty study that every refusal leaves as it was."""
    folder = tmp_path_factory.mktemp("bad") / "study"
    Study.create(folder, recipe="tinytalk").close()
    return folder


BAD_ROWS: list[tuple[bytes, str]] = [
    (b'{"chosen": "a", "rejected": "b"}', "column prompt is missing"),
    (b'{"prompt": "p", "chosen": "a"}', "column rejected is missing"),
    (b'{"prompt": "p", "first": "a", "second": "b"}', "column label is missing"),
    (b'{"prompt": 7, "chosen": "a", "rejected": "b"}', "prompt is a number"),
    (b'{"prompt": "p", "chosen": ["a"], "rejected": "b"}', "chosen[1] is a text, not a message"),
    (b'{"prompt": "p", "chosen": "a", "rejected": null}', "rejected is a null"),
    (b'{"prompt": "p", "chosen": " ", "rejected": "b"}', "chosen is empty"),
    (b'{"prompt": "p", "first": "a", "second": "b", "label": 2}', "label is 2"),
    (b'{"prompt": "p", "first": "a", "second": "b", "label": true}', "label is True"),
    (b'{"prompt": "p", "chosen": "a", "rejected": "b", "strength": "3"}', "strength is 3"),
    (b'{"prompt": "p", "chosen": "a", "rejected": "b", "split": "dev"}', "split is dev"),
    (b'{"prompt": "p", "chosen": "a", "rejected": "a"}', "identical"),
    (b'{"prompt": "\xff\xfe", "chosen": "a", "rejected": "b"}', "byte 13 is not valid UTF-8"),
    (b'{"prompt": "p", "chosen": "a\\u0000", "rejected": "b"}', "NUL"),
    (b'{"prompt": "p", "chosen": "\\ud800", "rejected": "b"}', "surrogate"),
    (b'{"prompt": "p", "chosen": "a", "rejected": "b", "strength": NaN}', "NaN is no JSON number"),
    (b'{"prompt": "p", "chosen": "a"', "not JSON"),
    (b"[" * 100_000, "not usable JSON"),
    (b'["p", "a", "b"]', "a list, not an object"),
    (b"1" * 5000, "not usable JSON"),
    (b'{"prompt": "w1 w2", "chosen": "w4", "rejected": "w3"}', "contradicts line 1"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_ROWS, ids=[reason for _, reason in BAD_ROWS])
def test_one_bad_row_changes_nothing(
    capsys: pytest.CaptureFixture[str], study: Path, tmp_path: Path, line: bytes, reason: str
) -> None:
    file = tmp_path / "pairs.jsonl"
    more = b"".join(json.dumps(GOOD | {"prompt": f"w{i}"}).encode() + b"\n" for i in range(2))
    file.write_bytes(json.dumps(GOOD).encode() + b"\n" + line + b"\n" + more)
    refused(capsys, study, ["1 of 4 rows cannot be used", "line 2: ", reason], "feedback", "import", study, file)


def test_skip_bad_leaves_out_these_rows_alone_and_names_their_lines(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Study.create(tmp_path / "s", recipe="tinytalk").close()
    (tmp_path / "pairs.jsonl").write_bytes(
        b"\n".join([json.dumps(GOOD).encode(), *(line for line, _ in BAD_ROWS)]) + b"\n"
    )
    status, out, err = cli(capsys, "feedback", "import", tmp_path / "s", tmp_path / "pairs.jsonl", "--skip-bad")
    assert (status, out) == (0, f"1 events imported, 0 known already, {len(BAD_ROWS)} rows rejected\n")
    for number, (said, (_, reason)) in enumerate(zip(err.splitlines(), BAD_ROWS, strict=True), 2):
        assert said.startswith(f"line {number}: ")
        assert reason in said


def test_files_without_rows(capsys: pytest.CaptureFixture[str], study: Path, tmp_path: Path) -> None:
    for name, content in (("empty.jsonl", b""), ("blank.jsonl", b"\n \n"), ("mark.jsonl", b"\xef\xbb\xbf")):
        (tmp_path / name).write_bytes(content)
        refused(capsys, study, [f"{name} is empty"], "feedback", "import", study, tmp_path / name)
    (tmp_path / "bad.jsonl").write_text("nonsense\n")
    bad = ["feedback", "import", study, tmp_path / "bad.jsonl", "--skip-bad"]
    refused(capsys, study, ["none of its first 1 rows can be read: line 1: not JSON"], *bad)
    refused(capsys, study, ["1 of 1 rows"], *bad, "--format", "pairs")  # nothing is left to import: that is no success
    refused(capsys, study, ["none.jsonl", "No such file"], "feedback", "import", study, tmp_path / "none.jsonl")
    (tmp_path / "folder").mkdir()
    refused(capsys, study, ["folder without data files"], "feedback", "import", study, tmp_path / "folder")
    write_rows(tmp_path / "other.jsonl", [{"question": "w1", "good": "w2", "bad": "w3"}])
    says = ["is of no format that is known here; its columns are bad, good, question", "map the columns"]
    refused(capsys, study, says, "feedback", "import", study, tmp_path / "other.jsonl")


def test_columns_and_formats_that_do_not_fit(capsys: pytest.CaptureFixture[str], study: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "x.jsonl", [{"question": "w1", "good": "w2", "bad": "w3"}])
    command = ["feedback", "import", study, tmp_path / "x.jsonl"]
    refused(capsys, study, ["did you mean 'pairs'"], *command, "--format", "pear")
    refused(
        capsys, study, ["names 'promt', which is no column"], *command, "--format=pairs", "--columns=promt=question"
    )
    refused(capsys, study, ["is not OURS=THEIRS"], *command, "--format", "pairs", "--columns", "prompt:question")
    refused(capsys, study, ["has no option 'scael'"], *command, "--format", "ratings", "--option", "scael=[1,5]")
    partly = ["--format", "pairs", "--columns", "prompt=question,chosen=good,rejected=worse"]
    refused(capsys, study, ["1 of 1 rows", "column rejected is missing"], *command, *partly)
    whole = ["--format", "pairs", "--columns", "prompt=question,chosen=good,rejected=bad"]
    assert cli(capsys, *command[:2], make_study(tmp_path), command[3], *whole)[0] == 0


def make_study(folder: Path) -> Path:
    Study.create(folder / "s", recipe="tinytalk").close()
    return folder / "s"


def test_settings_of_a_file_need_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for setting in ("feedback.format=pairs", "feedback.columns.prompt=question"):
        answer = cli(capsys, "new", tmp_path / "s", "--recipe", "tinytalk", "--set", setting)
        check_refusal(*answer, "is set, but no file")
    assert not (tmp_path / "s").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_line_of_a_gigabyte_never_fills_the_memory(study: Path, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(GOOD) + "\n")
    with file.open("r+b") as sparse:
        sparse.truncate(1 << 30)  # zeros without a line break: no bytes on the disk
    before = contents(study)
    program = (
        "import sys\nfrom pathlib import Path\nfrom tropism.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nfinally:\n"
        # ru_maxrss would count what this process, the parent, had before it
        "    print(*[line for line in Path('/proc/self/status').read_text().splitlines() if 'VmHWM' in line])\n"
    )
    command = [sys.executable, "-c", program, "feedback", "import", str(study), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    check_refusal(done.returncode, done.stdout, done.stderr, "line 2: longer than 16777216 bytes")
    assert int(done.stdout.split()[-2]) < 900 << 10, done.stdout  # KiB, of which torch has half
    assert contents(study) == before


def test_a_run_looks_at_its_feedback_file_before_it_makes_anything(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    world = own_world(tmp_path / "mine")
    with (world / "pairs.jsonl").open("a") as file:
        file.write('{"prompt": "w1"}\n')
    made = [f"model.path={world / 'model'}", f"world.prompts={world / 'prompts.jsonl'}", "study.domain=language"]
    source = [*made, "feedback.teacher=import", f"feedback.file={world / 'pairs.jsonl'}"]
    (tmp_path / "r.toml").write_text("")
    assert cli(capsys, "new", tmp_path / "s", "--recipe", tmp_path / "r.toml", *settings(source))[0] == 0
    refused(capsys, tmp_path / "s", ["line 81: column chosen is missing"], "run", tmp_path / "s")
    (world / "pairs.jsonl").unlink()
    refused(capsys, tmp_path / "s", ["pairs.jsonl cannot be read"], "run", tmp_path / "s")


def test_feedback_without_a_vote_to_fit_on(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    world = own_world(tmp_path / "mine")
    held_out = [GOOD | {"prompt": f"w9 w{i}", "split": "validation"} for i in range(9)]
    write_rows(world / "pairs.jsonl", held_out)
    (world / "r.toml").write_text(
        'study.domain = "language"\nmodel.path = "model"\nworld.prompts = "prompts.jsonl"\n'
        'feedback = { teacher = "import", file = "pairs.jsonl" }\n'
    )
    assert cli(capsys, "new", tmp_path / "s", "--recipe", world / "r.toml", *settings(SMALL))[0] == 0
    check_refusal(*cli(capsys, "run", tmp_path / "s"), "none of the 9 judgements", "train prompt")


def test_a_vote_on_a_held_out_prompt_cannot_be_declared_training_data(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    world = own_world(tmp_path / "mine")
    rows = [json.loads(line) | {"split": "train"} for line in (world / "pairs.jsonl").read_text().splitlines()]
    write_rows(world / "pairs.jsonl", rows)
    (world / "r.toml").write_text(
        'study.domain = "language"\nmodel.path = "model"\nworld.prompts = "prompts.jsonl"\n'
        'feedback = { teacher = "import", file = "pairs.jsonl" }\n'
    )
    assert cli(capsys, "new", tmp_path / "s", "--recipe", world / "r.toml")[0] == 0
    refused(capsys, tmp_path / "s", ["is in the study's test split already, not in train"], "run", tmp_path / "s")
