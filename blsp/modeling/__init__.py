"""The speech language model: frozen encoder, trained adapter, frozen LLM."""
