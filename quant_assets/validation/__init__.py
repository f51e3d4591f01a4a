"""Validation: whether a result can be believed. Pure functions over frames; nothing here reads or stores anything."""
