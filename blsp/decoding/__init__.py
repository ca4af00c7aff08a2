"""Models at work: conversations, transcripts and translations, token by token."""
