"""What the commands print: lists, previews, progress, completions, diagnoses and the page of mechanisms."""
