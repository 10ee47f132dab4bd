"""The `dfusion` command: a module or package per subcommand."""
