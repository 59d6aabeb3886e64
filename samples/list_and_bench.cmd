@echo off
REM List what can be run, list what is on this disk, then run one model and watch it start.
REM Usage: list_and_bench.cmd [model]      (default: phi-4-mini)
setlocal
set "MODEL=%~1"
if "%MODEL%"=="" set "MODEL=phi-4-mini"

echo Models that can be run here:
call foundry model list || exit /b 1

echo.
echo Models on this disk:
call foundry cache list || exit /b 1

echo.
echo Running %MODEL%, with what it takes to start:
REM At a console this opens a chat; /exit leaves it and the model stays loaded.
call foundry model run "%MODEL%" --verbose
