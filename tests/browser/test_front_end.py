"""The built pages that the package ships are those of their sources, small enough, and name nobody else's host."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WEB = ROOT / "web"
STATIC = ROOT / "src" / "tropism" / "studio" / "static"
FIX = "run `npm ci && npm run build` in web/ and commit src/tropism/studio/static"


def manifest() -> dict[str, Any]:
    return json.loads((STATIC / "manifest.json").read_text("utf-8"))


def digests(root: Path, names: list[str]) -> dict[str, str]:
    return {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in names}


def below(root: Path, place: str) -> list[str]:
    path = root / place
    found = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sorted(file.relative_to(root).as_posix() for file in found)


def test_what_is_built_is_of_these_sources() -> None:
    folders = ["public", "scripts", "src"]
    files = ["index.html", "package.json", "package-lock.json", "svelte.config.js", "tsconfig.json", "vite.config.ts"]
    sources = [name for place in files + folders for name in below(WEB, place)]
    assert digests(WEB, sources) == manifest()["sources"], FIX


def test_what_is_shipped_is_what_was_built() -> None:
    shipped = [name for name in below(STATIC, ".") if name != "manifest.json"]
    assert digests(STATIC, shipped) == manifest()["built"], FIX


def test_first_load_is_small() -> None:
    first = manifest()["first_load"]
    assert first["brotli_bytes"] <= first["limit_bytes"] == 150_000
    packed = [STATIC / f"{name}.br" for name in first["files"] if name.endswith((".js", ".css"))]
    assert 10_000 < sum(path.stat().st_size for path in packed) <= first["brotli_bytes"]


def test_pages_name_no_other_host() -> None:
    allowed = re.compile(r"http://www\.w3\.org/|https://svelte\.dev/e/|https?://[$`\"']")
    for path in STATIC.rglob("*"):
        if path.suffix in (".html", ".js", ".css"):
            urls = re.findall(r"https?://[^\s\"'`)]*.", path.read_text("utf-8"))
            found = [url for url in urls if not allowed.match(url)]
            assert not found, f"{path.name}: {found}"


def test_page_has_nothing_inline() -> None:
    html = (STATIC / "index.html").read_text("utf-8")
    assert not re.search(r"<style|<script(?![^>]*\bsrc=)|\son\w+=|style=", html)


def keys(source: str) -> list[str]:
    """Names in a table of strings, in their order, without the texts."""
    bare = re.sub(r"`(?:[^`\\]|\\.)*`|\"(?:[^\"\\]|\\.)*\"|//[^\n]*", "", source)
    return re.findall(r"(\w+)\s*:\s*(?=[,{(]|\n|\s*\})|(\w+)\s*:", bare.split("=", 1)[1])


@pytest.mark.parametrize("part", ["", "_lead", "_runs", "_admin", "_refusals"])
def test_languages_have_the_same_keys(part: str) -> None:
    """The type checker holds this too, where there is Node; here nothing but the files is needed."""
    english, chinese = ((WEB / "src/strings" / f"{language}{part}.ts").read_text("utf-8") for language in ("en", "zh"))
    arguments = {"n", "key", "s", "string", "number", "part", "version"}
    found = [{name for pair in keys(text) for name in pair if name} - arguments for text in (english, chinese)]
    types = {name for name in found[0] ^ found[1] if re.search(rf"\(?\b{name}: (string|number)", english)}
    assert found[0] - types == found[1] - types
    assert len(found[0]) > 20


def test_same_sources_build_the_same_pages(tmp_path: Path) -> None:
    """Where Node and its packages are: build again, type check, compare."""
    if shutil.which("npm") is None or not (WEB / "node_modules" / "vite").is_dir():
        pytest.skip("needs Node and web/node_modules (npm ci in web/)")
    environment = {**os.environ, "NODE_ENV": "production"}
    built = subprocess.run(
        ["npx", "vite", "build", "--outDir", str(tmp_path / "static"), "--emptyOutDir"],
        cwd=WEB, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    names = below(tmp_path / "static", ".")
    shipped = {n: d for n, d in manifest()["built"].items() if not n.endswith(".br")}
    assert digests(tmp_path / "static", names) == shipped, FIX
