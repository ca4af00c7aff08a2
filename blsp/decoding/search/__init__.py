"""Words from what an adapter heard: prefixes and beams by CTC, alone or together with the LLM."""
