"""A copy of the repository in which a reader follows a page: its commands are run there, its files written there.

Belongs here: what the tests of the documentation need to run a page, but not what pages say or may say.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from quant_assets.core.settings import PROJECT_ROOT
from quant_assets_tests import fork_server
from quant_assets_tests.browser import server
from quant_assets_tests.platform import PATIENCE

TOOLS = ("python",)
"""Programs of `.venv/bin` that pages run as they are."""
FOREIGN = ("QUANT_", "DAGSTER_", "ALPHA_VANTAGE_", "MAKE", "MFLAGS")
"""How variables begin that a reader's shell does not have."""
ACTIVATE = 'PATH="$PWD/.venv/bin:$PATH"\n'
"""What is needed of `.venv/bin/activate`."""


def write_client(folder: Path) -> Path:
    """The file to put in place of the programs that the fork server stands for."""
    client = folder / "client"
    place = Path(fork_server.__file__).parent
    client.write_text(
        fork_server.CLIENT.format(python=sys.executable, folder=str(place), address=fork_server.running())
    )
    client.chmod(0o755)
    return client


def copy_tree(root: Path, client: Path) -> None:
    """Copy what a clone would have (and what is new here) to `root`, installed: with `.venv` and dbt's manifest.

    `client` is what its programs are (`write_client`).
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    package = PROJECT_ROOT / "quant_assets"
    compiled = [path.relative_to(PROJECT_ROOT) for path in package.rglob("__pycache__/*")]  # half a minute of Numba
    manifest = Path("dbt_sql/target/manifest.json")
    for name in (*map(Path, filter(None, listed.split("\0"))), *compiled, manifest):
        if (PROJECT_ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT_ROOT / name, root / name)
    bin_ = root / ".venv" / "bin"
    bin_.mkdir(parents=True)
    for program in fork_server.PROGRAMS:
        (bin_ / program).symlink_to(client)
    (bin_ / "activate").write_text(ACTIVATE)
    for tool in TOOLS:
        (bin_ / tool).write_text(f'#!/bin/sh\nexec "{Path(sys.executable).parent / tool}" "$@"\n')
        (bin_ / tool).chmod(0o755)
    (root / ".venv" / ".installed").touch()
    os.utime(root / manifest)


@dataclass
class Reader:
    """Someone at a shell in `root`; what a command exports and where it goes to holds for the next one."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        path = f"{self.root / '.venv' / 'bin'}:{kept['PATH']}"  # a page may say only that the environment is active
        own = {"PATH": path, "PYTHONPATH": str(self.root), "LC_ALL": "C.UTF-8"}
        self.environment = kept | own | self.environment
        self._folder = self.root

    def run(self, command: str) -> tuple[int, str]:
        """Exit code and output, standard error included."""
        script = f'trap \'env -0 > "$LEFT"; pwd > "$LEFT.folder"\' EXIT\n{command}\n'
        left = self.root / ".left"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self._folder,
            env={**self.environment, "LEFT": str(left)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
        self.environment = dict(line.split("=", 1) for line in left.read_text().split("\0") if line)
        self._folder = Path(left.with_name(".left.folder").read_text().strip())
        return done.returncode, done.stdout

    def serve(self, command: str, url: str) -> None:
        """Run a command until it answers at `url`, then end it.

        Raises:
            AssertionError: it ended by itself, or did not answer in time.
        """
        words = ["bash", "-c", f"cd {quote(str(self._folder))} && {command}"]
        with server(words, url, self.environment, self.root / ".served"):
            pass
