#!/usr/bin/env bash
# Debian's software OpenGL, with which MuJoCo draws where there is no screen and no GPU:  scripts/egl.sh
set -euo pipefail
sudo=""
[ "$(id -u)" -eq 0 ] || sudo=sudo
$sudo apt-get update -qq
$sudo apt-get install -y -qq --no-install-recommends libegl1 libegl-mesa0 libgl1-mesa-dri
