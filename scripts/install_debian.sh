#!/usr/bin/env bash
# Debian packages for optional parts:  scripts/install_debian.sh chromium   (the report's browser test)
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: $0 chromium …" >&2; exit 2; }
sudo=""
[ "$(id -u)" -eq 0 ] || sudo=sudo
$sudo apt-get update -qq
for part in "$@"; do
  case "$part" in
    chromium) $sudo apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core ;;
    *) echo "error: no part named '$part'; known: chromium" >&2; exit 2 ;;
  esac
done
