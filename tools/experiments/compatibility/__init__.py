"""One training step of every stock family of the hosts with every kind of method."""
