"""What another pilot would change in the scores: estimated in the pilot, kept with the plan. Pure."""

import math

ANOTHER = math.sqrt(2.0)
"""Times the plan's noise: the deviations of two pilots, this one's and another's."""
