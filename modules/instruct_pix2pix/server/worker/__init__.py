"""The thread that owns the model, the queue of tasks before it, and the kinds of task."""
