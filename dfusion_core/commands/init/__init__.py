"""`dfusion init`: a project of one's own that runs the installed package."""
