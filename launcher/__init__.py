"""The command line tools, and all that knows Docker. It imports arpipam; arpipam never imports it."""
