"""The model zoo: small trained networks, an index of them, and the check that both are true."""
