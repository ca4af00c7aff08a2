"""Run folders: what was run there, on what, and whether it is done and still true.

`config.yaml` and `run.json` are written when a stage starts, `result.json` when it has ended. A run is done if its
result names the same config, and files of the same content as are read and were left there now.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from blsp import __version__
from blsp.config import build, read_config_file, to_values, write_yaml
from blsp.errors import ConfigError
from blsp.stages.stage import Stage, StageConfig
from blsp.storage import read_json, sha256_of, storage_errors, write_json_atomically

CONFIG_NAME, STARTED_NAME, RESULT_NAME = "config.yaml", "run.json", "result.json"
State = Literal["new", "started", "done", "changed"]
"""Nothing there; begun with the same config and inputs; done with them; made with others."""
_PACKAGES = ("torch", "transformers", "accelerate", "peft", "numpy")


class Fingerprints:
    """Content hashes of files and folders; what has the size and time of before is not read again.

    Args:
        memo: Where hashes are kept between runs.
    """

    def __init__(self, memo: Path) -> None:
        self._memo_path = memo
        try:
            self._memo: dict[str, Any] = read_json(memo)
        except (OSError, ValueError):
            self._memo = {}

    def of(self, paths: Iterable[Path]) -> dict[str, str | None]:
        """Hash of each file or folder; None for what is not there."""
        found = {str(path): self._of_path(path) for path in paths}
        with storage_errors(self._memo_path.parent):
            self._memo_path.parent.mkdir(parents=True, exist_ok=True)
            write_json_atomically(self._memo_path, self._memo)
        return found

    def _of_path(self, path: Path) -> str | None:
        if path.is_file():
            return self._of_file(path)
        if not path.is_dir():
            return None
        digest = hashlib.sha256()
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{file.relative_to(path).as_posix()}\0{self._of_file(file)}\n".encode())
        return digest.hexdigest()

    def _of_file(self, path: Path) -> str:
        status = path.stat()
        known = self._memo.get(str(path.resolve()))
        if known is None or known[:2] != [status.st_size, status.st_mtime_ns]:
            known = self._memo[str(path.resolve())] = [status.st_size, status.st_mtime_ns, sha256_of(path)]
        digest: str = known[2]
        return digest


def config_digest(config: StageConfig) -> str:
    """Hash of a config, its run folder left out: a folder may be moved."""
    values = {name: value for name, value in to_values(config).items() if name != "out"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def run_state(stage: Stage[Any], config: StageConfig, fingerprints: Fingerprints) -> State:
    """What the run folder holds, seen from this config and the inputs as they are now."""
    started = _read(config.out / STARTED_NAME)
    if started is None:
        return "changed" if config.out.is_dir() and any(config.out.iterdir()) else "new"
    if not _is_same_config(started, config) or started["inputs"] != _inputs(stage, config, fingerprints):
        return "changed"
    result = _read(config.out / RESULT_NAME)
    if result is None:
        return "started"
    return "done" if result["outputs"] == _outputs(stage, config, fingerprints) else "started"


def _is_same_config(started: Mapping[str, Any], config: StageConfig) -> bool:
    """Whether a folder was begun with a config, perhaps by a version without some options that are at defaults."""
    digest = config_digest(config)
    if started["config_sha256"] == digest:
        return True
    try:
        values = read_config_file(config.out / CONFIG_NAME, expand=False)
        before = build(type(config), {k: v for k, v in values.items() if k != "stage"}, where=CONFIG_NAME)
    except ConfigError:
        return False
    return config_digest(before) == digest


def _inputs(stage: Stage[Any], config: StageConfig, fingerprints: Fingerprints) -> dict[str, str | None]:
    return fingerprints.of(stage.inputs(config))


def _outputs(stage: Stage[Any], config: StageConfig, fingerprints: Fingerprints) -> dict[str, str | None]:
    found = fingerprints.of(stage.outputs(config))
    return {Path(path).relative_to(config.out).as_posix(): digest for path, digest in found.items()}


def start_run(stage: Stage[Any], config: StageConfig, fingerprints: Fingerprints) -> None:
    """Note in the run folder what begins there.

    Raises:
        StorageError: The folder cannot be written.
    """
    with storage_errors(config.out):
        config.out.mkdir(parents=True, exist_ok=True)
        (config.out / RESULT_NAME).unlink(missing_ok=True)
        write_yaml(config.out / CONFIG_NAME, {"stage": stage.name, **to_values(config)})
        facts = {
            "stage": stage.name,
            "config_sha256": config_digest(config),
            "inputs": _inputs(stage, config, fingerprints),
            "started": _now(),
            "blsp": __version__,
            "python": platform.python_version(),
            "packages": {name: version for name in _PACKAGES if (version := _version(name))},
            "machine": {"system": platform.platform(), "cores": os.cpu_count()},
        }
        write_json_atomically(config.out / STARTED_NAME, facts)


def end_run(
    stage: Stage[Any], config: StageConfig, result: dict[str, Any], seconds: float, fingerprints: Fingerprints
) -> None:
    """Note in the run folder that the stage is done, and what came of it.

    Raises:
        StorageError: The folder cannot be written.
    """
    facts = {
        "stage": stage.name,
        "result": result,
        "seconds": round(seconds, 1),
        "ended": _now(),
        "outputs": _outputs(stage, config, fingerprints),
    }
    with storage_errors(config.out):
        write_json_atomically(config.out / RESULT_NAME, facts)


def set_aside(folder: Path) -> Path:
    """Rename a run folder that was made with another config or other inputs, so that nothing in it is lost.

    Raises:
        StorageError: It cannot be renamed.
    """
    number = next(n for n in range(1, 1_000_000) if not _aside(folder, n).exists())
    with storage_errors(folder):
        return folder.rename(_aside(folder, number))


def _aside(folder: Path, number: int) -> Path:
    return folder.with_name(f"{folder.name}.old-{number}")


def read_result(folder: Path) -> dict[str, Any] | None:
    """What `end_run` noted, or None where the stage has not ended."""
    return _read(folder / RESULT_NAME)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
