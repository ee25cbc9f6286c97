#!/bin/bash
# Collects the wheels that the GPU check needs beside torch, triton, numpy and transformers, for a
# machine with a card that reaches no package index: prepare.sh [FOLDER] (default: wheels beside
# this script, which git ignores). Python 3.12, Linux, x86-64. Carry the checkout and the folder to
# that machine, and in the checkout's root:
#
#   python3 -m pip install --no-index --no-deps --target SITE FOLDER/*.whl
#   PYTHONPATH=SITE python3 -m benchmarks.gpu_check --out OUT --budget 470
#
# Taken as being there, as they are in images for this work: pyarrow, safetensors, scikit-learn,
# numba, fsspec, rich, typer, tqdm, einops; pytest and hypothesis for the tests, compute-sanitizer. What is
# missing is named in the report, and the part that needs it left out.
set -e
folder=${1:-$(cd "$(dirname "$0")" && pwd)/wheels}
mkdir -p "$folder"

configuration=(
  pydantic==2.14.4 pydantic_core==2.50.5 annotated_types==0.8.0 typing_inspection==0.4.5
  typing_extensions==4.16.0
)
peers=(
  eai_sparsify==1.3.3 schedulefree==1.4.1 simple_parsing==0.1.9 docstring_parser==0.18.0
  natsort==8.4.0 sae_lens==6.54.12
)
python3 -m pip download --quiet --no-deps --only-binary=:all: \
  --python-version 3.12 --implementation cp --platform manylinux_2_28_x86_64 \
  --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --dest "$folder" \
  "${configuration[@]}" "${peers[@]}"
du -sh "$folder"
