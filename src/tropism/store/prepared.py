"""Prepared statements straight through libpq: what psycopg's cursors do for every type there is, for the few we use.

A vote asks a dozen short questions. A cursor spends more on each of them in this process than the server does;
prepared once per connection and given as text, they cost a fraction. Values are str, int, float, bool or None; results
too, and JSON stays text. Left out: everything else, which goes through SQLAlchemy on the same connection, in the same
transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from tropism.errors import StoreError

if TYPE_CHECKING:
    import psycopg
    from psycopg.pq.abc import PGresult

MOST = 200
"""Statements that one connection keeps prepared; others are parsed each time."""

_BOOL, _BIG, _FLOAT, _UNKNOWN = 16, 20, 701, 0
_INTEGERS = (20, 21, 23)
_FLOATS = (700, 701)
_NUMERIC = 1700
_prepared: WeakKeyDictionary[Any, dict[str, bytes]] = WeakKeyDictionary()
"""By connection: the name under which a statement is prepared there."""


class Prepared:
    """Statements on one connection of psycopg, inside its transaction, which the first of them begins."""

    def __init__(self, driver: psycopg.Connection[Any]) -> None:
        from psycopg import pq

        self._connection = driver.pgconn
        self._idle = pq.TransactionStatus.IDLE
        self._rows, self._done = pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK
        self._names = _prepared.setdefault(driver, {})

    def execute(self, statement: str, values: tuple[Any, ...]) -> tuple[list[tuple[Any, ...]], int]:
        """The rows, and how many there are or were touched. ``?`` marks a value. Errors: psycopg's, with SQLSTATE."""
        if self._connection.transaction_status == self._idle:
            self._check(self._connection.exec_(b"BEGIN"))
        given: Any = [_encoded(value) for value in values]  # psycopg's types know of no NULL
        name = self._names.get(statement)
        if name is not None:
            result = self._connection.exec_prepared(name, given)
        elif len(self._names) < MOST:
            name = f"tropism_{len(self._names)}".encode()
            self._check(self._connection.prepare(name, _numbered(statement), [_type(value) for value in values]))
            self._names[statement] = name
            result = self._connection.exec_prepared(name, given)
        else:
            result = self._connection.exec_params(_numbered(statement), given, [_type(value) for value in values])
        self._check(result)
        if result.status != self._rows:
            return [], int(result.command_tuples or 0)
        decoders = [_decoder(result.ftype(column)) for column in range(result.nfields)]
        rows = [
            tuple(_decoded(result.get_value(row, column), decode) for column, decode in enumerate(decoders))
            for row in range(result.ntuples)
        ]
        return rows, len(rows)

    def commit(self) -> None:
        """End the transaction. Errors: psycopg's."""
        if self._connection.transaction_status != self._idle:
            self._check(self._connection.exec_(b"COMMIT"))

    def _check(self, result: PGresult) -> None:
        if result.status in (self._rows, self._done):
            return
        import psycopg
        from psycopg import pq

        message = result.error_message.decode("utf-8", "replace").strip()
        state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
        if not state:  # libpq's own: the connection is gone
            raise psycopg.OperationalError(message or "the connection is closed")
        try:
            known = psycopg.errors.lookup(state)
        except KeyError:
            raise psycopg.DatabaseError(f"{state}: {message}") from None
        raise known(message)


def _numbered(statement: str) -> bytes:
    parts = statement.split("?")
    return "".join(part + (f"${i}" if i < len(parts) else "") for i, part in enumerate(parts, start=1)).encode()


def _type(value: Any) -> int:
    """The type to prepare with; the server finds out that of texts and of nothing from where they stand."""
    if isinstance(value, bool):
        return _BOOL
    return _BIG if isinstance(value, int) else _FLOAT if isinstance(value, float) else _UNKNOWN


def _encoded(value: Any) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bool):
        return b"t" if value else b"f"
    if isinstance(value, int | float):
        return repr(value).encode()
    raise StoreError(f"a value of type {type(value).__name__} in a plain statement", "give text, numbers or None")


def _decoder(oid: int) -> Any:
    if oid in _INTEGERS:
        return int
    if oid in _FLOATS:
        return float
    if oid == _BOOL:
        return _is_true
    return _number if oid == _NUMERIC else _text


def _decoded(stored: bytes | None, decode: Any) -> Any:
    return None if stored is None else decode(stored)


def _is_true(stored: bytes) -> bool:
    return stored == b"t"


def _number(stored: bytes) -> int | float:
    return float(stored) if b"." in stored else int(stored)


def _text(stored: bytes) -> str:
    return stored.decode()
