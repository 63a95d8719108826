"""The dual guidance."""
