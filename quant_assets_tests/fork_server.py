"""Programs without their start-up: a process that has the libraries imported, and forks for each command.

Belongs here: what `docs_tree` puts into `.venv/bin`. A forked process imports `quant_assets` itself, from PYTHONPATH,
so that edits of the package count; the libraries behind it take most of a command's first two seconds.
"""

import json
import os
import socket
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path

PROGRAMS = {"quant": ("quant_assets.cli.app", "main"), "dagster": ("dagster._cli", "main")}
"""Program -> module and function that it calls."""

LIBRARIES = (
    "dagster._cli",
    "dagster._core.execution.api",
    "dagster_dbt",
    "duckdb",
    "jinja2",
    "lightgbm",
    "matplotlib.figure",
    "numba",
    "pandas",
    "pandera.polars",
    "polars",
    "pydantic_settings",
    "rich.console",
    "scipy.stats",
    "skfolio.model_selection",
    "sklearn.linear_model",
    "sqlalchemy.dialects.sqlite",
    "typer",
)
CLIENT = """#!{python} -ISE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    words = json.dumps([sys.argv, dict(os.environ), os.getcwd()]).encode()
    socket.send_fds(server, [len(words).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(words)
    sys.exit(int(server.recv(16) or 1))
"""
"""What stands in place of a program."""


def serve(address: str) -> None:
    """Answer clients one after the other until the process is ended."""
    for name in LIBRARIES:
        import_module(name)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        while True:
            client, _ = listener.accept()
            with client:
                size, streams, _, _ = socket.recv_fds(client, 4, 3)
                with client.makefile("rb") as sent:
                    argv, environment, folder = json.loads(sent.read(int.from_bytes(size, "big")))
                child = os.fork()
                if child == 0:
                    listener.close()
                    client.close()
                    return _become(argv, environment, folder, streams)
                for stream in streams:
                    os.close(stream)
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                with suppress(BrokenPipeError):  # a client that was killed
                    client.sendall(str(code).encode())


def _become(argv: list[str], environment: dict[str, str], folder: str, streams: list[int]) -> None:
    """The program that the client stands for."""
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = argv
    sys.path.insert(0, environment["PYTHONPATH"])
    module, function = PROGRAMS[Path(argv[0]).name]
    getattr(import_module(module), function)()


if __name__ == "__main__":
    serve(sys.argv[1])
