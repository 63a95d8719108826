"""The embedded engine: networks in LDM key layout, noise schedules and samplers."""
