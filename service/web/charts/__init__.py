"""Charts as geometry: plain numbers in, positions in an SVG's own units out. The templates draw them.

They are drawn on the server so that a page is complete without JavaScript.
"""
