"""The doors that stand alone: the command line, and what it shares with other doors."""
