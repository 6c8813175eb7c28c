"""Measures of inverters and generators, and the report on them."""
