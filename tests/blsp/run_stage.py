"""Runs one stage on a config in JSON; a script, so that several processes can be launched with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from blsp.config import build
from blsp.stages.base import Silent
from blsp.stages.registry import stage_named

if __name__ == "__main__":
    name, path = sys.argv[1:]
    stage = stage_named(name)
    config = build(stage.config_class, json.loads(Path(path).read_text()), where=path)
    config.out.mkdir(exist_ok=True)
    stage.run(config, Silent())
