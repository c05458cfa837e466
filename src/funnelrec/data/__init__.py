"""From an event log to a data set: reading, checking, splitting, describing, simulating."""
