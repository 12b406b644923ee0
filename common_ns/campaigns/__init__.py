"""Campaigns: many scenes and methods trained, evaluated and set into one table, with nothing lost on the way."""
