#!/usr/bin/env bash
# An environment of its own for TRL, which benchmarks compare with or exchange data with:
#   scripts/trl_environment.sh FOLDER [VERSION]     then  benchmarks/… --trl-python FOLDER/bin/python …
# VERSION is 1.16 unless given; PPO is in 1.12 and not in later ones. PYTHON=… picks the interpreter. Nothing is written
# outside FOLDER.
set -euo pipefail
[ $# -eq 1 ] || [ $# -eq 2 ] || { echo "usage: $0 FOLDER [VERSION]" >&2; exit 2; }
folder=$1
version=${2:-1.16}
[ -x "$folder/bin/python" ] || "${PYTHON:-python3}" -m venv "$folder"
# torch first and alone: it is the largest, and a build for this machine's CPU may already be there
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check 'torch==2.13.0'
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check "trl==$version.*"
"$folder/bin/python" -c 'import trl, torch; print(f"trl {trl.__version__}, torch {torch.__version__}")'
