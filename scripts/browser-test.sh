#!/usr/bin/env bash
# Drives the pages of `llmbs serve` and `llmbs report` in a headless Chromium:
# scripts/browser-test.sh [RUN [SCREENSHOTS]]
# RUN is a run folder, runs/demo by default. Needs Python and Debian's chromium and chromium-driver, which it
# installs where they are missing and it may.
set -euo pipefail
run=${1:+$(realpath "$1")}
screenshots=${2:+$(realpath -m "$2")}
cd "$(dirname "$0")/.."
run=${run:-runs/demo}
screenshots=${screenshots:-$run/screenshots}

if ! command -v chromedriver > /dev/null || ! command -v chromium > /dev/null; then
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" apt-get install -y -q --no-install-recommends chromium chromium-driver
fi
cargo build --release
mkdir -p "$screenshots"
exec python3 scripts/browser_test.py --program target/release/llmbs --run "$run" --screenshots "$screenshots"
