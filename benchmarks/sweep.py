"""What a sweep costs beside its members trained one by one, on recorded activations.

    python -m benchmarks.sweep HOME [--tokens 200000] [--repeats 3]

HOME: a data root that holds activations (`deconstruct run` leaves some). Members: TopK with k = 16,
32 and 64 and BatchTopK with k = 16, 32 and 64, at the default width, batch and site; both ways read
the same Parquet shards and write the same artifacts, byte for byte, into folders that are thrown
away. Prints seconds and their ratio; the machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from deconstruct.artifacts import Artifact, DataRoot, Manifest
from deconstruct.config import SaeConfig
from deconstruct.sae import stage


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("home", type=Path)
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=["topk", "batchtopk"])
    arguments = parser.parse_args()
    manifest = next((arguments.home / "activations").glob("[0-9a-f]*/manifest.json"))
    activations = Artifact(manifest.parent, Manifest.model_validate_json(manifest.read_text()))
    members = [
        SaeConfig(architecture=kind, k=k, tokens=arguments.tokens)
        for kind in arguments.kinds
        for k in (16, 32, 64)
    ]
    warm = [member.model_copy(update={"tokens": 3 * member.batch_size}) for member in members]
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        stage.train_all(
            DataRoot(Path(folder) / "warm"), warm, activations=activations, device="cpu"
        )
        for repeat in range(arguments.repeats):
            started = time.perf_counter()
            together = DataRoot(Path(folder) / f"together-{repeat}")
            swept = stage.train_all(together, members, activations=activations, device="cpu")
            middle = time.perf_counter()
            alone = DataRoot(Path(folder) / f"alone-{repeat}")
            single = [stage.train(alone, m, activations=activations, device="cpu") for m in members]
            ended = time.perf_counter()
            same = [a.digest() == b.digest() for a, b in zip(swept, single, strict=True)]
            ratios.append((middle - started) / (ended - middle))
            print(
                f"sweep {middle - started:.1f} s, one by one {ended - middle:.1f} s, ratio "
                f"{ratios[-1]:.3f}, equal bytes: {sum(same)} of {len(same)}",
                flush=True,
            )
    print(f"median ratio {statistics.median(ratios):.3f} over {len(ratios)} repeats")


if __name__ == "__main__":
    main()
