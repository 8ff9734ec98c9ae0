"""One module for each kind of source: how a listing becomes a `Source`, and how a range of its items is read."""
