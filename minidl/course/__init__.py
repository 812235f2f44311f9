"""Assignments: hand them out, check them, grade them.

An assignment is one source with marked solutions (``lessons/assignments``) and one file here that says how each
function is examined. ``handout`` takes the solutions out; ``isolate`` calls a student's functions in a process that
returns arrays and nothing else; ``judge`` compares the arrays with theory; ``grade`` adds the points; ``report`` writes
them down. ``docs/course.md`` is the guide for teachers.
"""
