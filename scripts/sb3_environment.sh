#!/usr/bin/env bash
# An environment of its own for Stable-Baselines3 and imitation, which the control domain is measured against:
#   scripts/sb3_environment.sh FOLDER     then  benchmarks/control_speed.py --sb3-python FOLDER/bin/python …
# PYTHON=… picks the interpreter. Nothing is written outside FOLDER.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
folder=$1
[ -x "$folder/bin/python" ] || "${PYTHON:-python3}" -m venv "$folder"
install() { "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
# torch first and alone: it is the largest, and a build for this machine's CPU may already be there
install 'torch==2.13.0'
install 'stable-baselines3==2.9.*' 'gymnasium[mujoco]'
# imitation asks for an older Stable-Baselines3 than it works with, and for logging services that nothing here uses
install --no-deps imitation seals
install huggingface-sb3 datasets optuna rich scikit-learn sacred tqdm
"$folder/bin/python" -c 'import imitation.algorithms.preference_comparisons, stable_baselines3 as s, torch, gymnasium
print(f"stable-baselines3 {s.__version__}, torch {torch.__version__}, gymnasium {gymnasium.__version__}")'
