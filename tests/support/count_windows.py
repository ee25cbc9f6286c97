"""How many windows a corpus of long texts should have: counted from the texts and the tokenizer's
file alone, with nothing of the project's.

    python count_windows.py TEXTS.jsonl TOKENIZER.json MAX_TOKENS BOS

BOS: 1 if each window begins with that token, which takes a place of it. Prints documents, tokens
(without BOS) and windows.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer


def count(texts: Path, tokenizer: Path, max_tokens: int, bos: int) -> tuple[int, int, int]:
    cut = Tokenizer.from_file(str(tokenizer))
    cut.no_truncation()
    documents = tokens = windows = 0
    with texts.open(encoding="utf-8") as lines:
        for line in lines:
            length = len(cut.encode(json.loads(line)["text"], add_special_tokens=False).ids)
            documents += 1
            tokens += length
            windows += -(-length // (max_tokens - bos))
    return documents, tokens, windows


if __name__ == "__main__":
    print(*count(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
