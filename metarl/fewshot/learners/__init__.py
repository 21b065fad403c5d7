"""The few-shot learners, one module for each idea; nothing here samples tasks or prints."""
