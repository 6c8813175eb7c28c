"""Reading, shrinking and writing pictures, whole or by window."""
