"""What is said of the channels of a ranking together: their ranks (`ranks`), who is in the top (`membership`), whether
the top is settled (`settled`), intervals that hold for all of them at once (`simultaneous`). Pure: no I/O, no Ray."""
