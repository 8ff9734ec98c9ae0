"""What is above one run: schedules, evaluation, estimates."""
