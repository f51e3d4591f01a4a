"""The vocabulary every other layer shares: slices, sessions, settings, errors, costs. Imports nothing of ours."""
