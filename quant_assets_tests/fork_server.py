"""Commands without their start-up: a process that has the libraries imported, and forks for each command.

Belongs here: what stands in for a Python process, or for a program of `.venv/bin`, in tests. A forked process imports
`quant_assets` itself, from PYTHONPATH, so that edits of the package and variables of the command count; the libraries
behind it take most of a command's start-up. Tests of the start-up itself need a process of their own.
"""

import atexit
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from select import select
from typing import IO

PATIENCE = 180
"""Seconds after which a process counts as hanging, and is ended."""

PROGRAMS = {"quant": ("quant_assets.cli.app", "main"), "dagster": ("dagster._cli", "main")}
"""Program -> module and function that it calls."""

LIBRARIES = (
    "alembic.command",
    "dagster._cli",
    "dagster._core.storage.event_log",
    "dagster._daemon.daemon",
    "dagster_dbt",
    "dagster_duckdb",
    "duckdb",
    "exchange_calendars",
    "lightgbm",
    "matplotlib.figure",
    "numba",
    "pandas",
    "pandera",
    "pydantic_settings",
    "rich.console",
    "scipy.stats",
    "skfolio.model_selection",
    "sklearn.linear_model",
    "sqlalchemy.dialects.sqlite",
    "typer",
)
"""Not Polars: it starts a thread when it is imported, which a fork would lose. (OpenBLAS ends its own for a fork.)"""

CLIENT = """#!{python} -ISE
import os, sys
sys.path.append({folder!r})
from fork_server import Process
sys.exit(Process(sys.argv, os.environ, os.getcwd(), address={address!r}).wait())
"""
_WORD = 4  # bytes of a number on the socket


class Process:
    """A command and how it ended: as much of `subprocess.Popen` as tests need. It has no standard input.

    `argv` begins with a program of PROGRAMS, or is `python -m module ...` or `python -c code ...`.
    """

    def __init__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        folder: str | Path,
        streams: tuple[int, int] = (1, 2),
        address: str | None = None,
    ) -> None:
        self.returncode: int | None = None
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(address or running())
        words = json.dumps([list(argv), dict(environment), str(folder)]).encode()
        socket.send_fds(self._server, [_packed(len(words))], streams)
        self._server.sendall(words)
        self.pid = _unpacked(self._server.recv(_WORD))

    def poll(self) -> int | None:
        """The exit code as `subprocess` has it, if it has ended."""
        if self.returncode is None and select([self._server], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self) -> int:
        """The exit code as `subprocess` has it, when it has ended: at the latest after PATIENCE."""
        if self.returncode is None:
            self.returncode = _unpacked(self._server.recv(_WORD))
            self._server.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class Piped(Process):
    """A command whose output, standard error included, can be read line by line from `stdout`."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str], folder: str | Path) -> None:
        read, write = os.pipe()
        self.stdout: IO[str] = os.fdopen(read)
        with os.fdopen(write, "w"):
            super().__init__(argv, environment, folder, (write, write))


def finished(
    argv: Sequence[str], environment: Mapping[str, str], folder: str | Path
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        code = Process(argv, environment, folder, (out.fileno(), err.fileno())).wait()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(argv, code, out.read(), err.read())


@cache
def running() -> str:
    """The address of this process's server, started at the first call. It ends with this process."""
    address = str(Path(tempfile.mkdtemp()) / "socket")
    process = subprocess.Popen(
        [sys.executable, "-P", __file__, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(process.communicate)
    assert process.stdout is not None
    assert process.stdout.readline(), f"the fork server ended with exit code {process.wait()}"
    return address


def serve(address: str) -> None:
    """Fork for clients until standard input is closed."""
    for name in LIBRARIES:
        import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: os.waitpid(-1, 0))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while sys.stdin not in select([listener, sys.stdin], [], [])[0]:
            client, _ = listener.accept()
            with client:
                if os.fork() == 0:
                    listener.close()
                    return _attend(client)
    Path(address).unlink()
    Path(address).parent.rmdir()
    os._exit(0)


def _attend(client: socket.socket) -> None:
    """Fork the command of a client, and tell its process id and its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, _, _ = socket.recv_fds(client, _WORD, 2)
    with client.makefile("rb") as sent:
        argv, environment, folder = json.loads(sent.read(_unpacked(size)))
    child = os.fork()
    if child == 0:
        client.close()
        return _become(argv, environment, folder, streams)
    for stream in streams:
        os.close(stream)
    with suppress(BrokenPipeError):  # a client that was killed
        client.sendall(_packed(child))
        client.sendall(_packed(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
    os._exit(0)


def _become(argv: list[str], environment: dict[str, str], folder: str, streams: list[int]) -> None:
    """The command that the client stands for."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.alarm(PATIENCE)
    for target, stream in enumerate([os.open(os.devnull, os.O_RDONLY), *streams]):
        os.dup2(stream, target)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
    sys.modules.pop("sitecustomize", None)
    with suppress(ModuleNotFoundError):
        import_module("sitecustomize")
    match argv:
        case [_, "-m", module, *words]:
            sys.argv = [module, *words]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case [_, "-c", code, *words]:
            sys.argv = ["-c", *words]
            exec(code, {"__name__": "__main__"})
        case _:
            sys.argv = argv
            module, function = PROGRAMS[Path(argv[0]).name]
            getattr(import_module(module), function)()


def _packed(number: int) -> bytes:
    return number.to_bytes(_WORD, "big", signed=True)


def _unpacked(number: bytes) -> int:
    """Raises: ConnectionError: the server has gone."""
    if not number:
        raise ConnectionError("the fork server has gone")
    return int.from_bytes(number, "big", signed=True)


if __name__ == "__main__":
    serve(sys.argv[1])
