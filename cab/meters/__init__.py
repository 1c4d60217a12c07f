"""The meters, one in each file, named as the file. docs/method.md says what each metric means."""
