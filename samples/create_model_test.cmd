@echo off
REM Test one model: list, look at the cache, load it, then ask it something over HTTP.
REM Usage: create_model_test.cmd [model]      (default: phi-4-mini)
REM FOUNDRY_URL says where the service listens (default: http://localhost:8000).
setlocal
set "MODEL=%~1"
if "%MODEL%"=="" set "MODEL=phi-4-mini"
if "%FOUNDRY_URL%"=="" set "FOUNDRY_URL=http://localhost:8000"

echo Model discovery and test
echo ========================

echo.
echo Step 1: models that can be run here
call foundry model list || exit /b 1

echo.
echo Step 2: models on this disk
call foundry cache list || exit /b 1

echo.
echo Step 3: load %MODEL%
REM No input: the command loads the model and ends, so that the next step is reached.
call foundry model run "%MODEL%" --verbose < NUL || exit /b 1

echo.
echo Step 4: one question over HTTP
curl --fail --silent --show-error --max-time 120 -X POST "%FOUNDRY_URL%/v1/chat/completions" ^
  -H "Content-Type: application/json" ^
  -d "{\"model\":\"%MODEL%\",\"messages\":[{\"role\":\"user\",\"content\":\"Hello, please introduce yourself.\"}],\"max_tokens\":100}" || exit /b 1

echo.
echo Model test complete.
