"""Whole commands on files that are wrong in one way or another."""
