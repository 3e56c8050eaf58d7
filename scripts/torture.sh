#!/usr/bin/env bash
# Kills, damages, fills, forces and locks runs of a tiny shop, and checks that nothing changes in silence. A line for
# each violation, and a table; exit code 1 where there is one. --help says more; --short takes about three minutes.
#
#   scripts/torture.sh [--cycles N] [--seed S] [--binary PATH] [--only PART] [--short]
#
# It works in a mount namespace of its own where the system allows one, so that it can make small file systems and
# leaves none behind; elsewhere the parts that need them are skipped, which is said. Needs Python 3.9; with strace it
# kills at calls to the system too.
set -euo pipefail
program="$(dirname "$(realpath "$0")")/torture"
export PYTHONDONTWRITEBYTECODE=1
for namespace in "unshare -m" "unshare -Urm"; do
    $namespace true 2>/dev/null && exec $namespace "${PYTHON:-python3}" "$program" "$@"
done
exec "${PYTHON:-python3}" "$program" "$@"
