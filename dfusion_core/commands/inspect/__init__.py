"""`dfusion inspect`: what published outputs hold, as a tree for the terminal or as a picture."""
