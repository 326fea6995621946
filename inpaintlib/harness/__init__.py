"""Runs, sweeps, statistics, tables, figures and claims."""
