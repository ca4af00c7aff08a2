"""Rates, and files and PCM as waveforms."""

SAMPLING_RATE = 16_000
"""Samples per second of every waveform inside the library (Hz)."""
MEL_WINDOW_SAMPLES = 400
MEL_HOP_SAMPLES = 160
MEL_FRAMES_PER_SECOND = SAMPLING_RATE // MEL_HOP_SAMPLES  # 100: columns of the log-mel spectrogram
ENCODER_FRAMES_PER_SECOND = MEL_FRAMES_PER_SECOND // 2  # 50: after Whisper's stride-2 convolution
WHISPER_WINDOW_SECONDS = 30
"""The longest stretch Whisper's encoder has positions for."""
