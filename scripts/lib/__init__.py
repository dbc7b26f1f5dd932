"""What the four scripts share. Files that run before the virtual environment exists use the
standard library only.
"""
