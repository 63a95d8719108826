"""The matrix of edits over both scales: its controls and its table, what happens to them, and its pictures."""
