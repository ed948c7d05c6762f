"""Rows and what they were read from -> one page to look at them, which needs nothing but a browser."""
