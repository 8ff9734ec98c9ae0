"""`pcace select`: how few channels carry or tell the output, with masks for pruning."""
