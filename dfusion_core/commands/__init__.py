"""What a person types: the `dfusion` command and its parts."""
