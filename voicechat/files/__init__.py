"""Recordings -> transcripts, translations and subtitles."""
