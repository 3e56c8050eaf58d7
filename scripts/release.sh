#!/usr/bin/env bash
# Makes the archive of a release: the program, its manual pages and shell completions, licence, readme and docs.
#
#   scripts/release.sh [FOLDER]
#
# FOLDER is where the archive goes (target/release).
set -euo pipefail
out="${1:+$(realpath -m "$1")}"
cd "$(dirname "$0")/.."
cargo build --release --locked --quiet
program=target/release/llmbs
version="$("$program" --version | cut -d' ' -f2)"
name="llmbs-$version-$(uname -m)-$(uname -s | tr '[:upper:]' '[:lower:]')"
out="${out:-target/release}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/$name/completions" "$out"
install -m 755 -s "$program" "$work/$name/llmbs"
cp -r LICENSE README.md CHANGELOG.md docs configs "$work/$name/"
"$program" --quiet man --out "$work/$name/man" >/dev/null
for shell in bash zsh fish; do "$program" --quiet completions $shell >"$work/$name/completions/llmbs.$shell"; done
# The same files give the same archive.
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$(git log -1 --format=%ct)" \
    -C "$work" -czf "$out/$name.tar.gz" "$name"
echo "$out/$name.tar.gz"
