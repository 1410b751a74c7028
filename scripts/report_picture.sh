#!/usr/bin/env bash
# The README's picture from a report:  scripts/report_picture.sh demo/report.html docs/report.png
set -euo pipefail
[ $# -eq 2 ] || { echo "usage: $0 REPORT.html PICTURE.png" >&2; exit 2; }
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || {
  echo "error: no Chromium found" >&2; echo "fix: scripts/install_debian.sh chromium" >&2; exit 2; }
mkdir -p "$(dirname "$2")"
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
"$browser" --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking \
  --disable-component-update --disable-sync --hide-scrollbars --user-data-dir="$profile" \
  --window-size=1200,1680 --screenshot="$(realpath "$2")" "file://$(realpath "$1")" 2>/dev/null
