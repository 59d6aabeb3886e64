#!/bin/sh
# Test one model: list, look at the cache, load it, then ask it something over HTTP.
# Usage: sh create_model_test.sh [model]      (default: phi-4-mini)
# FOUNDRY_URL says where the service listens (default: http://localhost:8000).
set -eu
model=${1:-phi-4-mini}
url=${FOUNDRY_URL:-http://localhost:8000}

echo "Model discovery and test"
echo "========================"

echo
echo "Step 1: models that can be run here"
foundry model list

echo
echo "Step 2: models on this disk"
foundry cache list

echo
echo "Step 3: load $model"
# No input: the command loads the model and ends, so that the next step is reached.
foundry model run "$model" --verbose </dev/null

echo
echo "Step 4: one question over HTTP"
curl --fail-with-body --silent --show-error --max-time 120 -X POST "$url/v1/chat/completions" \
  -H "Content-Type: application/json" \
  -d "{\"model\":\"$model\",\"messages\":[{\"role\":\"user\",\"content\":\"Hello, please introduce yourself.\"}],\"max_tokens\":100}"

echo
echo
echo "Model test complete."
