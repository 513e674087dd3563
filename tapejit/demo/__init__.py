"""The demonstration behind ``python -m tapejit demo``: a real model fitted to real data."""
