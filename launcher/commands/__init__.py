"""The command line: what click sees."""
