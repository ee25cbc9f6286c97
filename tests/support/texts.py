"""Labelled texts whose words tell their label."""

from __future__ import annotations

import csv
import random
from pathlib import Path

SUBJECTS = {
    "business": "bank market shares profit rates growth firm oil deal sales".split(),
    "sport": "match goal team coach players season win cup league final".split(),
    "film": "actor film award director star music prize audience band song".split(),
}


def write_texts(path: Path, documents: int = 120, seed: int = 0, longest: int = 30) -> Path:
    """A CSV of short texts whose words tell their label. longest: words of a text, at most."""
    draw = random.Random(seed)
    labels = list(SUBJECTS)
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "label"])
        for number in range(documents):
            label = labels[number % len(labels)]
            words = draw.choices([*SUBJECTS[label], "the", "in", "of"], k=draw.randint(8, longest))
            writer.writerow([" ".join(words), label])
    return path
