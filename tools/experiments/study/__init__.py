"""Studies: arms by seeds, one line a run, and a report. docs/studies.md shows how to write one."""
