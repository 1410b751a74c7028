"""Where a study's database is: an empty study is put on a server for good, and no password is ever written down."""

from __future__ import annotations

from pathlib import Path

import pytest

from bandit_studies import make
from databases import new_address
from tropism.errors import StoreError
from tropism.store import server
from tropism.store.placing import place_on_server
from tropism.study.study import Study


def test_the_studio_remembers_its_server(tmp_path: Path) -> None:
    make(tmp_path / "s").close()
    with new_address(template=False) as url:
        said = place_on_server(tmp_path / "s", url)
        assert "study.url" in said
        assert not list((tmp_path / "s").glob("study.db*"))
        assert place_on_server(tmp_path / "s", url) == "", "said once"
        with Study.open(tmp_path / "s") as study:
            assert study.database.is_server
            study.run(until="collect-1")
            with pytest.raises(StoreError, match="has its database at"):
                place_on_server(tmp_path / "s", "postgresql://me@elsewhere/study")
    make(tmp_path / "used").run(until="collect-1")
    with pytest.raises(StoreError, match=r"holds this study's data") as caught:
        place_on_server(tmp_path / "used", "postgresql://me@127.0.0.1:1/study")
    assert "tropism backup" in caught.value.fix
    make(tmp_path / "far").close()
    with pytest.raises(StoreError, match="connection to the server broke"):
        place_on_server(tmp_path / "far", "postgresql://me@127.0.0.1:1/study")
    assert (tmp_path / "far" / "study.db").is_file(), "nothing is noted of a server that is not there"


def test_no_password_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(server.VARIABLE, raising=False)
    given = "postgresql://me:secret@host:5433/study?sslmode=require&password=hidden"
    server.note_address(tmp_path / "study.db", given)
    written = (tmp_path / "study.url").read_text()
    assert written == "postgresql://me@host:5433/study?sslmode=require\n"
    assert server.address_beside(tmp_path / "study.db") == written.strip()
    monkeypatch.setenv(server.VARIABLE, given)
    assert server.address_beside(tmp_path / "study.db") == given, "the environment brings the password"
    monkeypatch.setenv(server.VARIABLE, "postgresql://me:secret@host/other")
    assert server.address_beside(tmp_path / "study.db") == written.strip(), "of another database it does not"
    for bad in (
        "mysql://me:secret@host/study",
        "postgresql://me:secret@host:many/study",
        "postgresql://me:secret@host",
    ):
        with pytest.raises(StoreError) as caught:
            server.make_engine(bad)
        assert "secret" not in str(caught.value)
