"""The published copy of the warehouse: what readers that stay (the lab, SQL tools) have open while runs write.

A copy is never changed. Each has a name of its own in `published/` beside the warehouse, `current` says which is the
newest, and the one before it stays for those who just learned its name.
"""

import shutil
from pathlib import Path

_KEPT = 2


def folder(warehouse: Path) -> Path:
    """Where the copies of `warehouse` lie."""
    return warehouse.parent / "published"


def current(warehouse: Path) -> Path | None:
    """The newest copy; None if there is none yet."""
    link = folder(warehouse) / "current.duckdb"
    try:
        return link.parent / link.readlink()
    except OSError:
        return None


def publish(warehouse: Path) -> Path:
    """Copy the file, which nobody may write meanwhile, unless that was done since it last changed.

    Raises:
        OSError: the copy cannot be written; nothing of it stays.
    """
    into = folder(warehouse)
    copy = into / f"warehouse-{warehouse.stat().st_mtime_ns}.duckdb"
    if current(warehouse) == copy and copy.exists():
        return copy
    into.mkdir(exist_ok=True)
    part, link = copy.with_suffix(".part"), into / "current.part"
    try:
        shutil.copyfile(warehouse, part)
        part.replace(copy)
        link.unlink(missing_ok=True)
        link.symlink_to(copy.name)
        link.replace(into / "current.duckdb")
    finally:
        part.unlink(missing_ok=True)
    for old in sorted(into.glob("warehouse-*.duckdb"), key=lambda file: file.stat().st_mtime_ns)[:-_KEPT]:
        old.unlink(missing_ok=True)
    for abandoned in into.glob("warehouse-*.part"):  # of a process that was killed
        abandoned.unlink(missing_ok=True)
    return copy
