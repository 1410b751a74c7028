"""How far the order of events is settled: for those who read what came after the number they saw last.

A file's rows are numbered in the order of their commits. A server numbers a row when it is written and shows it when
its transaction ends, so a higher number may be seen first; whoever goes on from there would pass over the lower one for
ever. Every transaction on a server that writes events holds a shared advisory lock with the last number given out
before it began (a trigger sees to it: migration 0003). What is at most the lowest of those, and was given out before
they were looked at, is settled: nothing can appear there any more.

Readers wait for nobody and nobody waits for them; what is not settled yet, they get the next time. Left out: other
tables; nobody reads those in this way.
"""

from __future__ import annotations

from typing import Final

from tropism.store.database import Database
from tropism.store.failures import as_store_error

_LOCK: Final = 0x54524F52
"""The first key of the locks, as in the trigger."""
_GIVEN: Final = "SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM events_seq_seq"
_LOWEST: Final = f"""
SELECT min(objid::bigint) FROM pg_locks WHERE locktype = 'advisory' AND classid = {_LOCK} AND objsubid = 2
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_ALL: Final = 2**31 - 1


def settled_to(database: Database) -> int:
    """The number up to which the log of events is complete for whoever reads it from now on.

    Ask before the transaction begins that reads the events: a snapshot taken earlier may lack some of them.
    """
    if not database.is_server:
        return _ALL
    # two statements in this order, each with its own snapshot: who holds no lock when they are looked at has either
    # ended, or will write above what was given out before
    with as_store_error(database.place), database.engine.connect() as connection:
        given = int(connection.exec_driver_sql(_GIVEN).scalar_one())
        lowest = connection.exec_driver_sql(_LOWEST).scalar()
    return given if lowest is None else min(given, int(lowest))
