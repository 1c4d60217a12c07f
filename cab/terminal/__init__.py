"""What the commands print and ask: lists, previews, progress, TAB, the doctor."""
