"""What a notebook shows of a finished run: its best channels, with small pictures."""
