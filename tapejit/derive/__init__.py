"""Derivatives as more tape, of any order.

``templates``: each elementwise rule traced once; ``scalars``: compiled loops that instantiate it
over all rows; ``sweep``, ``forward``, ``forward_many``, ``reverse``: the passes over a tape;
``tapes``: tape to tape; ``inline``: inside of a recording; ``choose``: which mode is cheaper.
"""
