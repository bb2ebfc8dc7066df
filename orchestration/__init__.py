"""What runs when: jobs, the sensor, schedules, and the definitions that Dagster loads."""
