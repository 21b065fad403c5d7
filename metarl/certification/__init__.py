"""Certificates: policies, also of other libraries, in a declared grid of changed worlds."""
