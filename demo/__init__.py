"""`make demo` trains every family on built-in data and shows the results on one page."""
