"""What pages ask of the store, as plain records; the report and the explorer share it."""
