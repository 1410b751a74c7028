#!/usr/bin/env bash
# An environment of its own for TRL, which benchmarks/trl_exchange.py trains with:
#   scripts/trl_environment.sh FOLDER        then  benchmarks/trl_exchange.py --trl-python FOLDER/bin/python …
# PYTHON=… picks the interpreter. Nothing is written outside FOLDER.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
folder=$1
[ -x "$folder/bin/python" ] || "${PYTHON:-python3}" -m venv "$folder"
# torch first and alone: it is the largest, and a build for this machine's CPU may already be there
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check 'torch==2.13.0'
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check 'trl==1.16.*'
"$folder/bin/python" -c 'import trl, torch; print(f"trl {trl.__version__}, torch {torch.__version__}")'
