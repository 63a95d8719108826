"""An edit in front of a person: its progress as a bar, its end by Ctrl+C, its result as a notebook shows it."""
