# List what can be run, list what is on this disk, then run one model and watch it start.
# Usage: ./list_and_bench.ps1 [model]      (default: phi-4-mini)
param([string]$Model = "phi-4-mini")
$ErrorActionPreference = "Stop"

function Invoke-Foundry {
    & foundry @args
    if ($LASTEXITCODE -ne 0) { throw "foundry $args ended with exit code $LASTEXITCODE" }
}

Write-Output "Models that can be run here:"
Invoke-Foundry model list

Write-Output ""
Write-Output "Models on this disk:"
Invoke-Foundry cache list

Write-Output ""
Write-Output "Running $Model, with what it takes to start:"
# At a console this opens a chat; /exit leaves it and the model stays loaded.
Invoke-Foundry model run $Model --verbose
