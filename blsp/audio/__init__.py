"""Sound: files and PCM -> waveform -> what the encoder reads."""
