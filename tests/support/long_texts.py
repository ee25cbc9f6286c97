"""Long texts in English words, and a tokenizer of a few hundred pieces for them.

    python -m support.long_texts FOLDER DOCUMENTS TOKENS

writes ``texts.jsonl`` and a tokenizer into the folder: so many documents of about so many tokens.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from support.texts import SUBJECTS
from support.tiny_models import tiny_tokenizer

WORDS = sorted({word for words in SUBJECTS.values() for word in words} | {"the", "in", "of"})


def write_long(path: Path, documents: int, tokens: int, seed: int = 0) -> Path:
    """A JSONL of texts of about so many tokens each, by `tiny_tokenizer`: 0.7 to 1.3 times."""
    draw = random.Random(seed)
    a_word = sum(len(ids) for ids in tiny_tokenizer()([f" {word}" for word in WORDS])["input_ids"])
    with path.open("w") as handle:
        for _ in range(documents):
            count = round(draw.uniform(0.7, 1.3) * tokens * len(WORDS) / a_word)
            handle.write(json.dumps({"text": " ".join(draw.choices(WORDS, k=count))}) + "\n")
    return path


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    tiny_tokenizer(bos=True).save_pretrained(folder)
    write_long(folder / "texts.jsonl", int(sys.argv[2]), int(sys.argv[3]))
