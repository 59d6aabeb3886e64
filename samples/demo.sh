#!/bin/sh
# The whole way on a real model: pull, list, run, measure in two settings, compare. Needs `foundry` on the PATH.
# It works in a folder of its own and removes it, so nothing of yours is touched.
set -eu
FOUNDRY_HOME=$(mktemp -d "${TMPDIR:-/tmp}/foundry-demo.XXXXXX")
export FOUNDRY_HOME
finish() {
    foundry service stop
    rm -rf "$FOUNDRY_HOME"
}
trap finish EXIT
# Port 8000 where it is free, as tutorials have it; otherwise any.
foundry service start 2>/dev/null || foundry service start --port 0

step() { printf '\n$ %s\n' "$*"; "$@"; }
step foundry model download smollm2-135m
step foundry model list
step foundry cache list
step foundry model run smollm2-135m --verbose --prompt "Explain edge AI in one sentence." --max-tokens 64
step foundry service ps
step foundry bench smollm2-135m --max-tokens 32 --max-tokens 96
printf '\n'
