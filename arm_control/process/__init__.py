"""The process: its output, signals, errors, exit codes, flags and commands. Imports no other room."""
