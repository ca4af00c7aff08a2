"""The paper's pipeline, stage by stage: each reads one config and fills one run folder."""
