"""One file a mechanism; the file's name is the mechanism's."""
