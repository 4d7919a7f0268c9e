"""Consumer groups of the classic protocol. `README.md` has the state machine as a table."""
