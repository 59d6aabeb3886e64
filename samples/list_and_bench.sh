#!/bin/sh
# List what can be run, list what is on this disk, then run one model and watch it start.
# Usage: sh list_and_bench.sh [model]      (default: phi-4-mini)
set -eu
model=${1:-phi-4-mini}

echo "Models that can be run here:"
foundry model list

echo
echo "Models on this disk:"
foundry cache list

echo
echo "Running $model, with what it takes to start:"
# With a terminal this opens a chat; /exit leaves it and the model stays loaded.
foundry model run "$model" --verbose
