"""Names of the English voices of Kokoro, and which of them training never hears."""

from __future__ import annotations

HELD_OUT_VOICES = (
    *("af_nova", "af_sarah", "am_liam", "am_michael"),
    *("bf_alice", "bf_emma", "bm_daniel", "bm_george"),
)
"""Voices for tests only, never trained on: half American, half British, half of them women."""
TRAINING_VOICES = (
    *("af_alloy", "af_aoede", "af_bella", "af_heart", "af_jessica", "af_kore", "af_nicole", "af_river", "af_sky"),
    *("am_adam", "am_echo", "am_eric", "am_fenrir", "am_onyx", "am_puck", "am_santa"),
    *("bf_isabella", "bf_lily", "bm_fable", "bm_lewis"),
)
"""All others. The first letter is the accent (American or British), the second the sex."""
VOICES = (*TRAINING_VOICES, *HELD_OUT_VOICES)
