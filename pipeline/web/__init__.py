"""A page to look at: what `top` shows, and pictures of what was recorded; reads shared memory and files only."""
