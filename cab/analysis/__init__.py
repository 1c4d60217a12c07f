"""Computes what follows from the rows of a store: leaderboards, growth exponents, efficiency lengths. Prints nothing.

`rows` and `environments` are the two tables of a store, as `cab.store.table` makes them.
"""
