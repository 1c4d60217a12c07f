"""A run: what is missing is measured in children, and each ends as an entry of the store. Measures nothing itself."""
