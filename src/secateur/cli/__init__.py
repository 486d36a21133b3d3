"""The command line: ``secateur``, one command for each thing to do."""
