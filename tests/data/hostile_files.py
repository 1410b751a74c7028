"""Malformed files, made by code, each with what must become of it: which rows are taken, rejected and why, or mended.

``CASES`` are files whose rows are judged one by one, ``REFUSED`` those that are refused as a whole, ``BOMBS`` those
that would fill the memory or never end.
"""

from __future__ import annotations

import gzip
import json
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GOOD = {"prompt": "p0", "chosen": "a", "rejected": "b"}
MIB = 1 << 20


def line(**columns: Any) -> bytes:
    """A good row with other columns, as JSON."""
    return json.dumps(GOOD | columns, ensure_ascii=False).encode()


def lines(*rows: bytes) -> bytes:
    return b"".join(row + b"\n" for row in rows)


@dataclass(frozen=True)
class Case:
    """A file, how it is read, and what must come out. ``rejected``: line to what its reason says."""

    file: str
    content: bytes | Callable[[Path], None]
    records: int = 0
    rejected: Mapping[int, str] = field(default_factory=dict)
    repaired: Mapping[str, int] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    """What the refusal of the whole file says; empty where rows are judged one by one."""

    def write(self, folder: Path) -> Path:
        path = folder / self.file
        if isinstance(self.content, bytes):
            path.write_bytes(self.content)
        else:
            self.content(path)
        return path


def made(content: Callable[[], bytes]) -> Callable[[Path], None]:
    """Large contents, made when they are written."""

    def write(path: Path) -> None:
        path.write_bytes(content())

    return write


def parquet(rows: list[dict[str, Any]], **options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path, **options)

    return write


def npz(**arrays: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        import numpy as np

        # allow_pickle: the point of one case is an array of objects
        np.savez_compressed(path, **{name.replace("__", "/"): np.asarray(held) for name, held in arrays.items()})

    return write


def starts(labels: list[Any], first: list[Any], second: list[Any]) -> Callable[[Path], None]:
    return npz(t__label=labels, t__indices_1=first, t__indices_2=second)


PAIRS = {"format": "pairs"}
CASES: dict[str, Case] = {
    # encodings
    "UTF-8 mark": Case("a.jsonl", b"\xef\xbb\xbf" + lines(line()), 1, repaired={"byte order mark removed": 1}),
    "UTF-8 mark twice": Case(
        "a.jsonl",
        b"\xef\xbb\xbf\xef\xbb\xbf" + lines(line(), line(prompt="p1")),
        1,
        {1: "not JSON"},
        {"byte order mark removed": 1},
    ),
    "UTF-16 little": Case(
        "a.jsonl",
        b"\xff\xfe" + lines(line(prompt="é世🙂")).decode().encode("utf-16-le"),
        1,
        repaired={"UTF-16 decoded": 1},
    ),
    "UTF-16 big, CSV": Case(
        "a.csv", b"\xfe\xff" + "prompt,chosen,rejected\né,a,b\n".encode("utf-16-be"), 1, repaired={"UTF-16 decoded": 1}
    ),
    "UTF-16, half a pair": Case(
        "a.jsonl",
        b"\xff\xfe"
        + lines(line(), b'{"prompt": "X"}')
        .decode()
        .encode("utf-16-le")
        .replace(b"X", b"\x00\xd8", 1)
        .replace(b"\x00\xd8\x00", b"\x00\xd8", 1),
        1,
        {2: "is not valid UTF-8"},
        {"UTF-16 decoded": 1},
    ),
    "bytes that are no UTF-8": Case(
        "a.jsonl", lines(line(), line(prompt="X").replace(b"X", b"\xe9")), 1, {2: "byte 13 is not valid UTF-8"}
    ),
    "Latin-1 in CSV": Case(
        "a.csv", b"prompt,chosen,rejected\ncaf\xe9,a,b\ncafe,a,b\n", 1, {2: "prompt is not valid UTF-8"}
    ),
    "overlong UTF-8": Case(
        "a.jsonl", lines(line(), line(prompt="X").replace(b"X", b"\xc0\x80")), 1, {2: "not valid UTF-8"}
    ),
    # line ends and NUL
    "CRLF": Case("a.jsonl", lines(line()).replace(b"\n", b"\r\n"), 1, repaired={"CRLF line ends": 1}),
    "CR alone": Case("a.jsonl", lines(line() + b"\r" + line(), line(prompt="p1")), 1, {1: "not JSON: Extra data"}),
    "blank lines": Case("a.jsonl", b"\n  \n" + lines(line()) + b"\n", 1, repaired={"blank lines skipped": 3}),
    "line separators that JSON allows": Case("a.jsonl", lines(line(prompt="a\u2028b\u0085c")), 1),
    "NUL bytes": Case("a.jsonl", lines(line(), line(prompt="X").replace(b"X", b"\0")), 1, {2: "a NUL byte"}),
    "NUL bytes in CSV": Case("a.csv", b"prompt,chosen,rejected\np,a\0,b\np,a,b\n", 1, {2: "chosen holds a NUL byte"}),
    "a tail of zeros": Case("a.jsonl", lines(line()) + bytes(4096), 1, {2: "a NUL byte"}),
    "NUL as an escape": Case("a.jsonl", lines(line(), line(prompt="x\0y")), 1, {2: "prompt holds a NUL character"}),
    # JSON
    "cut off": Case("a.jsonl", lines(line()) + line(prompt="p1")[:-9], 1, {2: "not JSON"}),
    "no objects": Case(
        "a.jsonl",
        lines(line(), b"[1]", b"7", b'"x"', b"null", b"true"),
        1,
        {2: "a list, not", 3: "a number, not", 4: "a text, not", 5: "a null, not", 6: "a truth value, not"},
    ),
    "NaN and its like": Case(
        "a.jsonl",
        lines(
            line(),
            *(
                b'{"prompt": "p", "chosen": "a", "rejected": "b", "score": %s}' % word
                for word in (b"NaN", b"Infinity", b"-Infinity", b"1e999")
            ),
        ),
        1,
        {2: "NaN is no JSON number (score)", 3: "Infinity is no", 4: "-Infinity is no", 5: "Infinity is no"},
    ),
    "doubled keys": Case(
        "a.jsonl",
        lines(line(), b'{"prompt": "p", "chosen": "a", "chosen": "c", "rejected": "b"}'),
        1,
        {2: "key 'chosen' stands twice"},
    ),
    "doubled keys inside": Case(
        "a.json",
        b'[%s, {"prompt": "p", "chosen": "a", "rejected": "b", "more": [{"k": 1, "k": 1}]}]' % line(),
        1,
        {2: "key 'k' stands twice"},
    ),
    "nested beyond recursion": Case(
        "a.jsonl", lines(line(), b"[" * 100_000, b'{"a":' * 100_000), 1, {2: "not usable JSON", 3: "not usable JSON"}
    ),
    "nested deep": Case(
        "a.jsonl", lines(line(), line(more=json.loads("[" * 300 + "]" * 300))), 1, {2: "nested more than 200 deep"}
    ),
    "half a surrogate pair": Case(
        "a.jsonl",
        lines(
            line(),
            b'{"prompt": "\\ud83d", "chosen": "a", "rejected": "b"}',
            b'{"prompt": "q", "chosen": "a", "rejected": "b", "m": {"\\udc00": 1}}',
        ),
        1,
        {2: "prompt holds half a surrogate", 3: "holds half a surrogate"},
    ),
    "a number of 5000 digits": Case(
        "a.jsonl", lines(line(), b'{"prompt": %s}' % (b"1" * 5000)), 1, {2: "not usable JSON"}
    ),
    "two objects in a line": Case(
        "a.jsonl", lines(line(), line(prompt="p1") + line(prompt="p2")), 1, {2: "Extra data"}
    ),
    "JSON lines called .json": Case(
        "a.json", lines(line(), b"{", line(prompt="p1")), 2, {2: "not JSON"}, {"JSON lines in a .json file": 1}
    ),
    "a list with other things in it": Case(
        "a.json", b"[%s, 3, null, [1]]" % line(), 1, {2: "a number", 3: "a null", 4: "a list"}
    ),
    # columns
    "wrong types": Case(
        "a.jsonl",
        lines(line(), line(prompt=7), line(prompt=None), line(chosen=[]), line(chosen={"a": 1}), line(rejected=True)),
        1,
        {
            2: "prompt is a number",
            3: "prompt is a null",
            4: "chosen is an empty list",
            5: "chosen.role is a null",
            6: "rejected is a truth value",
        },
    ),
    "nothing but white space": Case(
        "a.jsonl",
        lines(line(), line(prompt=""), line(chosen=" \t"), line(rejected="\u00a0\u2003")),
        1,
        {2: "prompt is empty", 3: "chosen is empty", 4: "rejected is empty"},
    ),
    "missing columns": Case(
        "a.jsonl",
        lines(line(), b'{"prompt": "p", "chosen": "a", "rejeced": "b"}', b"{}"),
        1,
        {
            2: "column rejected is missing (there are prompt, chosen, rejeced; did you mean rejeced?)",
            3: "column prompt is missing (there are none)",
        },
        options=PAIRS,
    ),
    "identical answers": Case(
        "a.jsonl", lines(line(), line(prompt="q", rejected="a")), 1, {2: "the two answers are identical"}
    ),
    "a row twice": Case("a.jsonl", lines(line(), line(prompt="q"), line()), 2, {3: "the same as line 1"}),
    "contradiction of one annotator": Case(
        "a.jsonl",
        lines(
            line(annotator="x"),
            line(chosen="b", rejected="a", annotator="x"),
            line(chosen="b", rejected="a", annotator="y"),
        ),
        2,
        {2: "contradicts line 1 (the same pair, annotator 'x')"},
    ),
    "one id, two rows": Case(
        "a.jsonl", lines(line(id=1), line(id="1", prompt="q")), 1, {2: "id '1' is that of line 1 too"}
    ),
    "ids that collide across annotators": Case(
        "a.jsonl",
        lines(line(id="1", annotator="x"), line(id="1", annotator="y", prompt="q"), line(id="1", annotator="y")),
        2,
        {2: "id '1' is that of line 1 too"},
    ),
    "annotators who may be one": Case(
        "a.jsonl",
        lines(
            line(annotator="Ann"),
            line(annotator="ann", prompt="q"),
            line(annotator="Ann ", prompt="r"),
            line(annotator="", prompt="s"),
        ),
        1,
        {2: "differ by case", 3: "differ by case", 4: "annotator is empty"},
    ),
    "labels out of range": Case(
        "a.jsonl",
        lines(
            *(
                json.dumps({"prompt": f"p{i}", "first": "a", "second": "b", "label": label}).encode()
                for i, label in enumerate((0, 2, -1, 0.7, "0", None, True))
            )
        ),
        1,
        {
            2: "label is 2",
            3: "label is -1",
            4: "label is 0.7",
            5: "label is 0,",
            6: "label is None",
            7: "label is True",
        },
        options=PAIRS,
    ),
    "labels that are no yes or no": Case(
        "a.jsonl",
        lines(
            *(
                json.dumps({"prompt": f"p{i}", "completion": "a", "label": label}).encode()
                for i, label in enumerate((True, 2, 0.5, "yes", 1))
            )
        ),
        2,
        {2: "label is 2", 3: "label is 0.5", 4: "label is yes"},
        {"0 or 1 read as false or true": 1},
        {"format": "unpaired"},
    ),
    "scores off their scale": Case(
        "a.jsonl",
        lines(
            *(
                json.dumps({"prompt": f"p{i}", "completion": "a", "score": score, "scale": scale}).encode()
                for i, (score, scale) in enumerate(
                    [(5, [1, 5]), (6, [1, 5]), ("5", [1, 5]), (1, [5, 1]), (1, [1]), (1, None)]
                )
            )
        ),
        1,
        {
            2: "score 6 lies outside the scale",
            3: "score is 5, not a number",
            4: "does not rise",
            5: "scale is [1], not",
            6: "no scale",
        },
        options={"format": "ratings"},
    ),
    "ranks that are none": Case(
        "a.jsonl",
        lines(
            *(
                json.dumps({"prompt": f"p{i}", "completions": answers, "ranks": ranks}).encode()
                for i, (answers, ranks) in enumerate(
                    [
                        (["a", "b"], [1, 2]),
                        (["a", "b"], [1]),
                        (["a", "a"], [1, 2]),
                        (["a", "b"], [1, "x"]),
                        (["a", "b"], [1, None]),
                        (["a"], [1]),
                        ("ab", [1, 2]),
                    ]
                )
            )
        ),
        1,
        {
            2: "1 ranks for 2",
            3: "answers 1 and 2 are identical",
            4: "ranks[2] is x",
            5: "1 slots are ranked",
            6: "1 slots are ranked",
            7: "completions is a text",
        },
    ),
    "votes that are none": Case(
        "a.jsonl",
        lines(
            *(
                json.dumps(
                    {
                        "instruction": f"i{i}",
                        "input": "",
                        "response1": "a",
                        "response2": "b",
                        "annotator1": vote,
                        "annotator2": 0,
                    }
                ).encode()
                for i, vote in enumerate((1, 3, "2", 1.5))
            )
        ),
        2,
        {2: "annotator1 is 3", 3: "annotator1 is 2, not a number", 4: "annotator1 is 1.5"},
    ),
    "spans outside the answer": Case(
        "a.jsonl",
        lines(
            *(
                json.dumps({"prompt": f"p{i}", "completion": "abc", "critique": "c", "span": span}).encode()
                for i, span in enumerate(([0, 3], [0, 4], [2, 2], [-1, 2], [1], "x"))
            )
        ),
        1,
        {2: "ends behind the answer", 3: "is empty", 4: "begins before 0", 5: "span", 6: "span is a text"},
    ),
    "broken chat messages": Case(
        "a.jsonl",
        lines(
            *(
                json.dumps({"messages": messages}).encode()
                for messages in (
                    [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
                    [{"role": "user", "content": "q"}],
                    [],
                    ["q", "a"],
                    [{"role": "user"}, {"role": "assistant", "content": "a"}],
                    [{"role": "user", "content": "q"}, {"role": "user", "content": "a"}],
                    [{"content": "q"}, {"role": "assistant", "content": "a"}],
                    [
                        {"role": "user", "content": [{"type": "image", "url": "x"}]},
                        {"role": "assistant", "content": "a"},
                    ],
                )
            )
        ),
        1,
        {
            2: "no message before the answer",
            3: "empty list of messages",
            4: "messages[1] is a text",
            5: "messages[1].content is a null",
            6: "ends with a message of user",
            7: "messages[1].role is a null",
            8: "has a part that is no text",
        },
    ),
    "a tree of nonsense": Case(
        "a.jsonl",
        lines(
            *(
                json.dumps(
                    {"message_tree_id": f"t{i}", "prompt": {"text": "q", "role": "prompter", "replies": replies}}
                ).encode()
                for i, replies in enumerate(
                    [
                        [{"text": t, "role": "assistant", "rank": i, "replies": []} for i, t in enumerate("ab")],
                        "x",
                        [3],
                        [{"text": t, "role": "robot", "rank": 0} for t in "ab"],
                        [{"text": "", "role": "assistant", "rank": 0}] * 2,
                        [{"text": "a", "role": "assistant", "rank": i} for i in (0, 1)],
                        [{"text": t, "role": "assistant", "rank": "best"} for t in "ab"],
                    ]
                )
            )
        ),
        1,
        {
            2: "replies is a text",
            3: "a reply is a number",
            4: "role is robot",
            5: "text is empty",
            6: "answers 1 and 2 are identical",
            7: "rank is best",
        },
    ),
    "rankings that contradict themselves": Case(
        "a.csv",
        b"srclang,trglang,segmentId,judgeID,system1Id,system1rank,system2Id,system2rank,rankingID\n"
        b"fr,en,1,j,A,1,B,2,1\nfr,en,1,j,A,2,C,2,1\nfr,en,1,j,A,1,B,2,2\nfr,en,1,j,A,1,A,2,3\nfr,en,2,j,A,0,B,2,4\nfr,en,2,j,A,1,B,2,2\nfr,en,2,j,A,1,B,x,6\n",
        1,
        {
            2: "A has rank 1 and rank 2",
            3: "A has rank 1 and rank 2",
            5: "system A stands twice",
            6: "system1rank is 0",
            7: "ranking 2 came before",
            8: "system2rank is x",
        },
    ),
    # sizes
    "a row of 100,000 tokens": Case(
        "a.jsonl", lines(line(prompt="token " * 100_000), line(chosen="word " * 100_000)), 2
    ),
    "a cell of 100,000 tokens": Case("a.csv", b"prompt,chosen,rejected\n" + b"token " * 100_000 + b",a,b\n", 1),
    "a line of 17 MiB": Case(
        "a.jsonl",
        made(lambda: lines(line(), line(prompt="x" * 17 * MIB), line(prompt="q"))),
        2,
        {2: "longer than 16777216 bytes"},
    ),
    "a cell of 17 MiB": Case(
        "a.csv",
        made(lambda: b"prompt,chosen,rejected\np,a,b\n" + b"x" * 17 * MIB + b",a,b\nq,a,b\n"),
        2,
        {3: "longer than 16777216 bytes"},
    ),
    # CSV
    "cells too few and too many": Case(
        "a.csv",
        b"prompt,chosen,rejected\np,a\np,a,b,c\np,a,b\n",
        1,
        {2: "2 cells, but the first line names 3", 3: "4 cells, but"},
    ),
    "text behind a quote": Case("a.csv", b'prompt,chosen,rejected\np,"a"x,b\nq,a,b\n', 1, {2: "not CSV"}),
    "a quote that is never closed": Case(
        "a.csv",
        b'prompt,chosen,rejected\np,a,b\nq,"a,b\nr,a,b\ns,a,b\n',
        1,
        {3: "not CSV: unexpected end of data (lines 3 to 5 were taken for one row)"},
    ),
    "line ends inside quotes": Case(
        "a.csv", b'prompt,chosen,rejected\n"p\r\n\nq",a,b\n\nr,a,b\n', 2, repaired={"blank lines skipped": 1}
    ),
    "formulae": Case("a.csv", b"prompt,chosen,rejected\n=1+1,@a,-b\n", 1),
    # tables
    "wrong column types": Case(
        "a.parquet",
        parquet([{"prompt": 1, "chosen": "a", "rejected": "b"}]),
        0,
        options=PAIRS,
        error="prompt is a number",
    ),
    "a table with gaps": Case(
        "a.parquet",
        parquet([GOOD, GOOD | {"prompt": None}, GOOD | {"prompt": "q", "chosen": ""}]),
        1,
        {2: "prompt is a null", 3: "chosen is empty"},
    ),
    "bytes in a table": Case(
        "a.parquet",
        parquet([GOOD | {"more": b"\xff"}, GOOD | {"more": None}]),
        1,
        {1: "more is bytes, which is no JSON"},
    ),
    # segments
    "labels of segments out of range": Case(
        "a.npz",
        starts([0, 5, -1, 1], [1, 2, -3, 4], [5, 6, 7, 4]),
        1,
        {2: "t: label is 5", 3: "t: a segment starts at -3", 4: "the two segments are identical"},
    ),
    "steps that are not finite": Case(
        "a.npz",
        npz(
            obs1=[[[0.0]], [[float("nan")]]],
            act1=[[[1.0]], [[1.0]]],
            obs2=[[[2.0]], [[2.0]]],
            act2=[[[3.0]], [[3.0]]],
            label=[0, 1],
        ),
        1,
        {2: "obs1 holds a number that is not finite"},
    ),
}


def objects(path: Path) -> None:
    import numpy as np

    np.savez(path, label=np.array([{"a": 1}], dtype=object), indices_1=np.array([1]), indices_2=np.array([2]))


def lying_header(path: Path) -> None:
    """An array that says it has 10**12 numbers."""
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,), }"
    header += b" " * (118 - len(header)) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("label.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64))


def broken_datasets(path: Path) -> None:
    path.mkdir()
    (path / "state.json").write_text('{"_data_files": [{"filename": "gone.arrow"}]}')
    (path / "dataset_info.json").write_text("{}")


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def damaged(content: bytes) -> bytes:
    """With another checksum."""
    return content[:-8] + bytes(4) + content[-4:]


ROWS = lines(*(line(prompt=f"p{i}", chosen=zlib.crc32(b"%d" % i).to_bytes(4, "big").hex()) for i in range(2000)))
REFUSED: dict[str, Case] = {
    "UTF-16 without its mark": Case("a.jsonl", lines(line()).decode().encode("utf-16-le"), error="a NUL byte"),
    "UTF-32": Case("a.jsonl", lines(line()).decode().encode("utf-32"), error="is UTF-32"),
    "UTF-16 cut inside a character": Case(
        "a.jsonl", lines(line()).decode().encode("utf-16")[:-1], error="broken UTF-16"
    ),
    "a JSON list that is no UTF-8": Case("a.json", b'[{"prompt": "\xe9"}]', error="byte 14 is not valid UTF-8"),
    "CR alone in CSV": Case("a.csv", b"prompt,chosen,rejected\rp,a,b\rq,a,b\r", error="the columns, is not CSV"),
    "a trailing comma": Case("a.json", b"[%s,]" % line(), error="not JSON"),
    "an object of objects": Case("a.json", b'{"0": %s}' % line(), error="holds an object with '0', not a list"),
    "one number": Case("a.json", b"3", error="holds a number, not a list"),
    "an empty list": Case("a.json", b"[]", error="is empty"),
    "an empty file": Case("a.jsonl", b"", error="is empty"),
    "an empty CSV": Case("a.csv", b"", error="is empty"),
    "an empty JSON": Case("a.json", b" \n", error="is empty"),
    "an empty Parquet": Case("a.parquet", b"", error="no usable Parquet file"),
    "an empty gzip": Case("a.jsonl.gz", gzip.compress(b""), error="is empty"),
    "no gzip at all": Case("a.jsonl.gz", b"", error="is no gz file: it is empty"),
    "only a mark": Case("a.jsonl", b"\xef\xbb\xbf", error="is empty"),
    "only blank lines": Case("a.csv", b"\n\r\n\n", error="is empty"),
    "only a first line": Case("a.csv", b"prompt,chosen,rejected\n", error="is empty"),
    "a first line in quotes gone wrong": Case("a.csv", b'"prompt,chosen\np,a\n', error="the columns, is not CSV"),
    "two columns of one name": Case("a.csv", b"prompt,prompt\np,q\n", error="two columns named 'prompt'"),
    "CSV without the columns": Case(
        "a.csv", b"promt,chosen,rejected\np,a,b\n", options=PAIRS, error="did you mean promt?"
    ),
    "gzip that is cut off": Case("a.jsonl.gz", cut(gzip.compress(ROWS)), error="cut off in the middle"),
    "xz that is cut off": Case("a.jsonl.xz", cut(lzma.compress(ROWS)), error="cut off in the middle"),
    "gzip with another checksum": Case("a.jsonl.gz", damaged(gzip.compress(ROWS)), error="cannot be decompressed"),
    "rubbish behind gzip": Case("a.jsonl.gz", gzip.compress(ROWS) + b"rubbish", error="cannot be decompressed"),
    "gzip that does not say so": Case(
        "a.jsonl", gzip.compress(ROWS), error="is compressed (gz), which its name does not say"
    ),
    "text that says it is gzip": Case("a.jsonl.gz", ROWS, error="is no gz file: it begins with b'{"),
    "xz that says it is gzip": Case("a.jsonl.gz", lzma.compress(ROWS), error="is compressed (xz)"),
    "CSV that says it is Parquet": Case(
        "a.parquet", b"prompt,chosen,rejected\np,a,b\n", error="no usable Parquet file"
    ),
    "Parquet that says it is CSV": Case("a.csv", b"PAR1\x15\x04\x15\x00\n\xff\xfe\x00\n", error="holds a NUL byte"),
    "a cut Parquet": Case(
        "a.parquet",
        lambda path: (parquet([GOOD])(path), path.write_bytes(cut(path.read_bytes())))[0],
        error="no usable Parquet",
    ),
    "JSON that says it is npz": Case("a.npz", ROWS, error="no usable npz file"),
    "an array of objects": Case("a.npz", objects, error="holds Python objects"),
    "an array that lies about its size": Case("a.npz", lying_header, error="more than it holds"),
    "arrays of other lengths": Case("a.npz", starts([0, 1], [1], [2]), error="two starts for each label"),
    "starts without labels": Case(
        "a.npz", npz(t__indices_1=[1], t__indices_2=[2]), error="neither labels with start indices"
    ),
    "steps of other shapes": Case(
        "a.npz",
        npz(obs1=[[[0.0]]], act1=[[[0.0]]], obs2=[[[0.0], [1.0]]], act2=[[[0.0]]], label=[0]),
        error="give numbers [rows, steps, size]",
    ),
    "a folder instead of a file": Case("a.jsonl", lambda path: path.mkdir(), error="a folder without data files"),
    "a datasets folder without its data": Case("saved", broken_datasets, error="no usable datasets folder"),
    "no row that can be used": Case(
        "a.jsonl", lines(b"{", b"}"), error="none of its first 2 rows can be read: line 1: not JSON"
    ),
    "another kind of JSON": Case(
        "a.json", json.dumps([{"name": "x"}]).encode(), error="is of no format that is known here"
    ),
}


def bomb_gzip(part: bytes, count: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        pack = zlib.compressobj(9, wbits=31)
        with path.open("wb") as file:
            for _ in range(count):
                file.write(pack.compress(part))
            file.write(pack.flush())

    return write


def bomb_xz(path: Path) -> None:
    pack = lzma.LZMACompressor(preset=1)
    with path.open("wb") as file:
        for _ in range(120):
            file.write(pack.compress(bytes(MIB)))
        file.write(pack.flush())


def dictionary_of_a_gigabyte(path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]
    content = bytearray(lzma.compress(ROWS, filters=filters))
    # the block header's LZMA2 property byte, and the header's checksum after it: 40 means 4 GiB
    size = (content[12] + 1) * 4
    place = content.index(0x21, 12, 12 + size) + 2
    content[place] = 40
    content[12 + size - 4 : 12 + size] = zlib.crc32(bytes(content[12 : 12 + size - 4])).to_bytes(4, "little")
    path.write_bytes(bytes(content))


def sparse(path: Path) -> None:
    path.write_bytes(lines(line()))
    with path.open("r+b") as file:
        file.truncate(1 << 28)


def zip_of_zeros(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("label.npy", "w") as member:
        for _ in range(200):
            member.write(bytes(MIB))


def repeated_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    part = pa.table({"prompt": ["x" * MIB] * 50})
    with pq.ParquetWriter(path, part.schema, use_dictionary=False, compression="zstd") as writer:
        for _ in range(10):
            writer.write_table(part)


BOMBS: dict[str, Case] = {
    "zeros without a line end, gzip": Case(
        "a.jsonl.gz", bomb_gzip(bytes(MIB), 120), error="expands more than 250-fold"
    ),
    "blank lines, gzip": Case("b.jsonl.gz", bomb_gzip(b"\n" * MIB, 120), error="more than 1000000 blank lines"),
    "blank lines in CSV, gzip": Case("q.csv.gz", bomb_gzip(b"\r\n" * MIB, 120), error="more than 1000000 blank lines"),
    "zeros as CSV, gzip": Case("d.csv.gz", bomb_gzip(bytes(MIB), 120), error="expands more than 250-fold"),
    "one JSON list, gzip": Case("e.json.gz", bomb_gzip(b" " * MIB, 120), error="expands more than 250-fold"),
    "zeros, xz": Case("f.jsonl.xz", bomb_xz, error="expands more than 250-fold"),
    "xz that asks for 4 GiB": Case("g.jsonl.xz", dictionary_of_a_gigabyte, error="Memory usage limit"),
    "256 MiB without a line end": Case("h.jsonl", sparse, 1, {2: "longer than 16777216 bytes"}, options=PAIRS),
    "many small JSON values": Case(
        "i.json", made(lambda: b"[" + b"{}," * 4_000_000 + b"{}]"), error="more than 6000000 JSON values"
    ),
    "a JSON list of 129 MiB": Case(
        "j.json", made(lambda: b"[" + b" " * 129 * MIB + b"]"), error="more than 134217728 bytes of JSON"
    ),
    "nothing but bad rows": Case(
        "k.jsonl",
        made(lambda: lines(line()) * 10 + b"x\n" * 3_000_000),
        options=PAIRS,
        error="100001 of 100002 rows cannot be used",
    ),
    "bad rows before the first good one": Case(
        "l.jsonl", b"{}\n" * 500_000 + lines(line()), options=PAIRS, error="10001 of 10001 rows cannot be used"
    ),
    "arrays of zeros": Case("m.npz", zip_of_zeros, error="250-fold"),
    "a table of repeated text": Case("n.parquet", repeated_parquet, error="expands more than 250-fold"),
    "a row of 16 million cells": Case(
        "o.csv",
        made(lambda: b"prompt,chosen,rejected\n" + b"," * 15 * MIB + b"\np,a,b\n"),
        1,
        {2: "15728641 cells, but"},
    ),
    "a quote that takes the whole file": Case(
        "p.csv",
        made(lambda: b'prompt,chosen,rejected\np,a,b\nq,"' + b"a,b\n" * 5_000_000 + b"r,a,b\n"),
        1,
        options=PAIRS,
        error="rows cannot be used",
    ),
}
