"""One module a command. They are imported when their command is invoked, and import late themselves."""
