"""`make demo`: its plan, the lanes that run it, the line that tells how far it is, and its page."""
