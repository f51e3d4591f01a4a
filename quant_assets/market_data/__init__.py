"""Bars and corporate actions from the outside world, and their adjustment. Tables at rest belong to `warehouse`."""
