"""Networks and distributions over actions: the parts of policies that have parameters."""
