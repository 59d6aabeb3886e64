# Test one model: list, look at the cache, load it, then ask it something over HTTP.
# Usage: ./create_model_test.ps1 [model]      (default: phi-4-mini)
# FOUNDRY_URL says where the service listens (default: http://localhost:8000).
param([string]$Model = "phi-4-mini")
$ErrorActionPreference = "Stop"
$url = if ($env:FOUNDRY_URL) { $env:FOUNDRY_URL } else { "http://localhost:8000" }

function Assert-Success([string]$What) {
    if ($LASTEXITCODE -ne 0) { throw "$What ended with exit code $LASTEXITCODE" }
}

Write-Output "Model discovery and test"
Write-Output "========================"

Write-Output ""
Write-Output "Step 1: models that can be run here"
foundry model list
Assert-Success "foundry model list"

Write-Output ""
Write-Output "Step 2: models on this disk"
foundry cache list
Assert-Success "foundry cache list"

Write-Output ""
Write-Output "Step 3: load $Model"
# No input: the command loads the model and ends, so that the next step is reached.
$null | foundry model run $Model --verbose
Assert-Success "foundry model run"

Write-Output ""
Write-Output "Step 4: one question over HTTP"
$body = @{
    model      = $Model
    messages   = @(@{ role = "user"; content = "Hello, please introduce yourself." })
    max_tokens = 100
} | ConvertTo-Json -Depth 3
$answer = Invoke-RestMethod -Uri "$url/v1/chat/completions" -Method Post -Body $body -ContentType "application/json" -TimeoutSec 120
Write-Output $answer.choices[0].message.content

Write-Output ""
Write-Output "Model test complete."
