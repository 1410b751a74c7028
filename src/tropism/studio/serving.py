"""The studio as a server: in this process, or in one beside a run, so that training never holds up a page.

Left out: TLS and several server processes; a proxy does the one, and one process is enough for a team.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from tropism.errors import ConfigError
from tropism.studio import accounts
from tropism.studio.app import create_app
from tropism.studio.settings import StudioSettings, is_loopback
from tropism.studio.state import Studio

GRACE_S = 5
BACKLOG = 512
SWITCH_S = 0.0005
LISTENS = "studio of"
"""How the line begins that says where it listens."""
Say = Callable[[str], None]


def serve(folder: Path, settings: StudioSettings, say: Say) -> None:
    """Serve until SIGTERM or Ctrl-C; ``say`` gets the address, and the setup link where there is no account yet.

    Errors: ConfigError for a port that is taken, or an address that others reach while nobody has an account;
    StoreError for a folder that is no study.
    """
    app = create_app(folder, settings)
    studio: Studio = app.state.studio
    try:
        refuse_open_door(studio)
        with _socket(settings) as listening:
            host, port = listening.getsockname()[:2]
            url = address(host, port)
            if studio.setup_needed:
                token, _ = accounts.invite(studio.database, "admin", None, settings.setup_s)
                say(f"first administrator (this link works once): {url}/#/setup/{token}")
            say(f"{LISTENS} {studio.facts.name}: {url}")
            # the writer gives the interpreter's lock back at every statement: a busy event loop must not sit on it
            sys.setswitchinterval(SWITCH_S)
            with _signals_heeded():
                server(app).run(sockets=[listening])
    finally:
        studio.close()


@contextlib.contextmanager
def _signals_heeded() -> Iterator[None]:
    """The server ends by SIGTERM and Ctrl-C in good order, and then raises them once more: that would end this process
    before the studio is closed. Here it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def server(app: FastAPI) -> uvicorn.Server:
    """The server of an application, on sockets that it is given."""
    studio: Studio = app.state.studio
    config = uvicorn.Config(
        app,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=True,  # from these alone; by default, a proxy on this machine
        forwarded_allow_ips=list(studio.settings.proxies),
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=75,
        h11_max_incomplete_event_size=64 << 10,
        lifespan="on",
    )
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    return uvicorn.Server(config)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether to say it: not that requests were still open (a stream, a clip that was waited for) when the server was
    told to stop, and were let go after ``GRACE_S``."""
    kind = record.exc_info[0] if record.exc_info else None
    let_go = kind is not None and issubclass(kind, asyncio.CancelledError)
    return not let_go and "timeout graceful shutdown exceeded" not in str(record.msg)


def refuse_open_door(studio: Studio) -> None:
    """Errors: ConfigError where others could reach a studio that has no account: the first to come would own it."""
    if not is_loopback(studio.settings.host) and studio.setup_needed:
        raise ConfigError(
            f"--host {studio.settings.host} while this studio has no account",
            "start it once without --host, make the first administrator by the link it prints, then start it so",
        )


def address(host: str, port: int) -> str:
    """How a browser on this machine reaches a socket."""
    shown = "127.0.0.1" if host in ("0.0.0.0", "") else "[::1]" if host == "::" else host
    return f"http://{f'[{shown}]' if ':' in shown and not shown.startswith('[') else shown}:{port}"


@contextlib.contextmanager
def _socket(settings: StudioSettings) -> Iterator[socket.socket]:
    """A listening socket. Errors: ConfigError naming the port that is taken, or the host that is not this machine's."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((settings.host, settings.port))
        except OSError as error:
            place = f"{settings.host}:{settings.port}"
            fix = "choose another --port (0: any free one), or end the other program"
            raise ConfigError(f"{place} cannot be had: {error.strerror or error}", fix) from error
        made.listen(BACKLOG)
        yield made


@contextlib.contextmanager
def beside(folder: Path, settings: StudioSettings, say: Say) -> Iterator[None]:
    """A studio in a process of its own for the length of the block. It ends with this process, however that ends.

    Errors: ConfigError if it does not come up.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_serve_beside, args=(folder, settings, there, os.getpid()), name="tropism-studio")
    process.start()
    there.close()
    try:
        _come_up(here, say)
        yield
    finally:
        process.terminate()
        process.join(timeout=GRACE_S + 5)
        if process.is_alive():
            process.kill()


def _come_up(here: Connection, say: Say) -> None:
    """Pass on what the new process says, until it listens."""
    try:
        while True:
            kind, words = here.recv()
            if kind == "error":
                raise ConfigError(*words)
            say(words)
            if kind == "ready":
                return
    except EOFError as error:
        raise ConfigError("the studio's process ended before it listened", "look at what it wrote above") from error


def _serve_beside(folder: Path, settings: StudioSettings, there: Connection, parent: int) -> None:
    """In the new process: serve, and end when the process that started it is gone."""
    from tropism.errors import TropismError

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run; it ends this process by itself
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    try:
        serve(folder, settings, lambda words: there.send(("ready" if words.startswith(LISTENS) else "say", words)))
    except TropismError as error:
        there.send(("error", (error.problem, error.fix)))


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
