"""Studies: arms by seeds, their lines and their report. docs/studies.md tells how to write one."""
