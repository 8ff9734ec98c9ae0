"""What another pilot would change in the scores: estimated in the pilot, kept with the plan. Pure."""
