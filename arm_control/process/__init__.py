"""This process: what it prints, which signals and errors end it, how its flags are parsed. Imports no other room."""
