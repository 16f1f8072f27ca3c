"""What is wrong with a tree of minute files, found by arithmetic on what the files say. Pure."""
