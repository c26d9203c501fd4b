"""Anyone's files of one model side by side."""
