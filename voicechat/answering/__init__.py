"""Who answers, and how answers are spoken."""
