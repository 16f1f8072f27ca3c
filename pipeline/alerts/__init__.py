"""Telling somebody: what is wrong for long enough becomes one message, and one more when it is over."""
