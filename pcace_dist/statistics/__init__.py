"""Pure mathematics: plan, codes, Gram, solve, jackknife, ranks. No I/O, no models, no Ray."""
