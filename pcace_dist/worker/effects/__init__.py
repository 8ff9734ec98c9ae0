"""What a worker does for effects: which targets have some (choice.py), the axes that the pilot makes (pilot.py), and
the part of the main pass (rows.py)."""
