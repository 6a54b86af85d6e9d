#!/usr/bin/env bash
# What `make test` runs: components, formatting, lint, types, import contracts, tests. Every stage runs
# even if an earlier one failed; the status at the end is 0 only if all of them passed.
# Arguments go to pytest: scripts/test.sh tests/stream -k retention
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bin=.venv/bin
failed=()

stage() {
  local name=$1 started=$SECONDS status=0
  shift
  printf '\n== %s: %s\n' "$name" "$*"
  "$@" || status=$?
  if ((status == 0)); then
    printf '== %s: passed in %d s\n' "$name" $((SECONDS - started))
  else
    printf '== %s: FAILED (status %d) after %d s\n' "$name" "$status" $((SECONDS - started))
    failed+=("$name")
  fi
}

# Root on a fresh machine: Debian's packages may be installed too (Java, Maven, Chromium).
export TEST_INSTALL_SYSTEM_PACKAGES=${TEST_INSTALL_SYSTEM_PACKAGES:-true}

# Some images set it. The tests start hundreds of processes: each would compile everything again.
unset PYTHONDONTWRITEBYTECODE

stage components "$bin/python" -m tests.components
stage format "$bin/ruff" format --check .
stage lint "$bin/ruff" check .
stage types "$bin/mypy"
stage imports "$bin/lint-imports"
stage tests "$bin/pytest" -n 2 --dist loadgroup -m "not torture" "$@"

printf '\n'
if ((${#failed[@]})); then
  printf 'FAILED after %d s: %s\n' "$SECONDS" "${failed[*]}"
  exit 1
fi
printf 'All stages passed in %d s.\n' "$SECONDS"
