"""What people see: lines on the terminal and in logs, bars, and values that a terminal must not obey."""
