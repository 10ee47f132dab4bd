"""`dfusion inspect`: the content of published outputs, as a tree in the terminal or as a picture."""
