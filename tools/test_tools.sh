#!/usr/bin/env bash
# What the tests need beside Python: a browser for the pages, docker-compose to read docker-compose.yml, curl to
# type the README's quick start.
# Where they are missing and cannot be installed, the tests that need them are skipped and say so.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
[ -n "${LIMBECK_CHROMIUM:-}" ] || command -v chromium >/dev/null || missing+=(chromium)
for program in docker-compose curl; do
  command -v "$program" >/dev/null || missing+=("$program")
done
[ ${#missing[@]} -eq 0 ] && exit 0

tools/system_packages.sh "${missing[@]}" || {
  echo "Not installed, and not installable without root: ${missing[*]}. Tests that need them will be skipped." >&2
  echo "An installed browser can be named: LIMBECK_CHROMIUM=/path/to/chromium" >&2
}
