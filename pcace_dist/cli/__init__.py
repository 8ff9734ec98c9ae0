"""Arguments, what is printed, exit codes."""
