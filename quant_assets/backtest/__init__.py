"""Targets to equity: the simulation, its measures, its pictures and its report."""
