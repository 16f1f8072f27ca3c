"""Pictures of minute files: what they show as arrays, and how it is drawn."""
