"""Policies on suites of programs: runs that are kept, references, and how policies compare."""
