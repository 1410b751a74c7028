#!/usr/bin/env bash
# Debian packages for optional parts:  scripts/install_debian.sh chromium postgresql
#   chromium     the browser tests           postgresql   scripts/postgres.sh
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: $0 chromium|postgresql …" >&2; exit 2; }
sudo=""
[ "$(id -u)" -eq 0 ] || sudo=sudo
$sudo apt-get update -qq
for part in "$@"; do
  case "$part" in
    chromium) $sudo apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core ;;
    postgresql)
      # a cluster of the system's own would start with the machine; ours is started where it is needed
      $sudo mkdir -p /etc/postgresql-common/createcluster.d
      echo 'create_main_cluster = false' | $sudo tee /etc/postgresql-common/createcluster.d/tropism.conf > /dev/null
      $sudo apt-get install -y -qq --no-install-recommends postgresql ;;
    *) echo "error: no part named '$part'; known: chromium, postgresql" >&2; exit 2 ;;
  esac
done
