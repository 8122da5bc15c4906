"""What the commands share: options, a job without a service, what a terminal shows."""
