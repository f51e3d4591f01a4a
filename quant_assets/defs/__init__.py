"""The code location's parts: partitions, assets, checks, jobs, schedules. Turns a Dagster context into plain values and
calls the domain; holds no arithmetic of its own."""
