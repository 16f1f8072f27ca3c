"""The supervisor: processes, their states, the commands that reach it, and what it reports."""
