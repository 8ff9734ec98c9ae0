"""What people would write instead: scripts that stand for themselves, know nothing of pcace_dist, and are timed against
it. Each is written as well as one would in an afternoon; tests hold their numbers to the engine's."""
