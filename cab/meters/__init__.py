"""One file a meter; the file's name is the meter's. What a metric means: docs/method.md."""
