"""What a worker does for effects: which targets have some (choice.py), the axes that the pilot makes (pilot.py), and the
main pass's part (rows.py, image.py)."""
