"""Collection by workers in other processes and on other machines; nothing here knows a learner."""
