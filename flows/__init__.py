"""What a user schedules: flows that compose tasks, and the commands that run and serve them."""
