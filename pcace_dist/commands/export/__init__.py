"""`pcace export`: a finished run in other people's formats, one module a format."""
