"""What follows from the rows of a store: leaderboards, growth of costs, efficiency lengths. It renders nothing."""
