#!/usr/bin/env bash
# Installs what building and running with --features mpi needs, from the packages of Debian or Ubuntu, where it is
# missing: Open MPI, and libclang, which reads its headers.
set -euo pipefail

has_libclang() { ls /usr/lib/llvm-*/lib/libclang*.so* > /dev/null 2>&1; }

if ! command -v mpirun > /dev/null || ! command -v mpicc > /dev/null || ! has_libclang; then
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" apt-get install -y -q --no-install-recommends openmpi-bin libopenmpi-dev libclang-dev
fi
