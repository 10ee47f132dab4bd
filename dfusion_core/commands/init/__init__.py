"""`dfusion init`: a project that runs the installed package."""
