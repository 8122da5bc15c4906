#!/usr/bin/env bash
# Make a virtual environment with a Python 3.11 to 3.13 and install Limbeck with every extra into it.
#   tools/install.sh [FOLDER]        PYTHON=/path/to/python chooses the interpreter
set -euo pipefail
cd "$(dirname "$0")/.."
environment=${1:-.venv}

# A name on PATH proves little (version managers leave shims of absent versions, Debian ships Python without
# ensurepip), so each candidate has to run and to have what an environment needs.
fits() {
  "$1" -c 'import sys, venv, ensurepip, ssl, sqlite3; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
    >/dev/null 2>&1
}

choose() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3 python}; do
    if command -v "$candidate" >/dev/null && fits "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

if ! "$environment/bin/python" -m pip --version >/dev/null 2>&1 || ! fits "$environment/bin/python"; then
  python=$(choose) || { tools/system_packages.sh python3 python3-venv && python=$(choose); } || {
    echo "Limbeck needs Python 3.11, 3.12 or 3.13 with its venv module. None of those on PATH runs." >&2
    echo "Install one, or name one: make install PYTHON=/path/to/python3.11" >&2
    exit 1
  }
  echo "Creating $environment with $("$python" --version) ..."
  "$python" -m venv --clear "$environment"
fi

echo "Installing Limbeck and its libraries into $environment (once; about 6 GB, a few minutes) ..."
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
  --constraint constraints.txt --editable '.[dev]'
