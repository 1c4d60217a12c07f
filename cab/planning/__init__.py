"""What the command line asks for, as a list of cases."""
