"""What an LLM is to write: behaviours, conversations, and which answers are kept."""
