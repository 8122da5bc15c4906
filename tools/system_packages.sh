#!/usr/bin/env bash
# Install Debian packages where that is allowed: as root, or with a sudo that asks no password. Fails otherwise.
#   tools/system_packages.sh PACKAGE...
set -euo pipefail

command -v apt-get >/dev/null || exit 1
if [ "$(id -u)" -eq 0 ]; then
  privileged=()
elif sudo -n true 2>/dev/null; then
  privileged=(sudo -n)
else
  exit 1
fi

echo "Installing $* ..."
apt() { "${privileged[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 "$@" </dev/null; }
{ apt update && apt install --yes --no-install-recommends "$@"; } >/dev/null
