"""A program in Python's place, for what is started by another process."""

from __future__ import annotations

import stat
from pathlib import Path


def stand_in(folder: Path, *lines: str) -> str:
    """Its path. lines: of a shell script."""
    file = folder / "python"
    file.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)
