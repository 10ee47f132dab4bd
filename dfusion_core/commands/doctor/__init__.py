"""`dfusion doctor`: does everything that a run needs work here?"""
