"""Commands that are disturbed: each call fails in turn, kills at random moments."""
