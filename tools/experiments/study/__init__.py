"""Studies: arms by seeds, one line for each run, and a report. docs/studies.md shows how to write one."""
