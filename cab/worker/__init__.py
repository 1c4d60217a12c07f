"""What lives in processes of its own: the fork server, and the children that check, train and measure."""
