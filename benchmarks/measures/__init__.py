"""The gates, grouped by what is run for them. Each function gives the results of its group."""
