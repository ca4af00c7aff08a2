"""Writes the golden losses anew: python tests/golden/regenerate.py. Only where a change of them is meant."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    root = Path(__file__).parents[2]
    os.environ["GOLDEN_WRITE"] = "1"
    os.chdir(root)
    sys.path.insert(0, str(root))  # the tests import each other as `tests.…`
    sys.exit(pytest.main(["-q", str(Path(__file__).parent)]))
