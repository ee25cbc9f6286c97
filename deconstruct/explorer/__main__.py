"""``python -m deconstruct.explorer HOME PORT``: the explorer as another program's child, which
starts before there is a store."""

from __future__ import annotations

import sys
from pathlib import Path

from deconstruct.common.errors import DeconstructError
from deconstruct.common.showing import say
from deconstruct.explorer.server import explore

if __name__ == "__main__":
    try:
        explore(Path(sys.argv[1]), int(sys.argv[2]), lambda _: None)
    except DeconstructError as error:
        say(f"error: {error}", error=True)
        sys.exit(1)
