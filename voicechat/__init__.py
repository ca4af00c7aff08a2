"""voicechat: talk to a speech language model in your terminal."""
