"""A longer run of the API's fuzzing: tests/api/test_openapi.py with more examples, and other ones each time.

    python fuzz/api.py [EXAMPLES] [PYTEST ARGUMENTS]...

EXAMPLES are per endpoint and kind, right and wrong (default 500, some minutes). What it finds becomes a test.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest


def main() -> int:
    os.environ["FOUNDRY_FUZZ_EXAMPLES"] = sys.argv[1] if len(sys.argv) > 1 else "500"
    root = Path(__file__).parent.parent
    test = root / "tests" / "api" / "test_openapi.py"
    sys.path.pop(0)  # this folder, whose `api` would stand in for that of the tests
    return pytest.main(["--rootdir", str(root), "--timeout", "3600", str(test), *sys.argv[2:]])


if __name__ == "__main__":
    sys.exit(main())
