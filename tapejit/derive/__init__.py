"""Derivatives as more tape, of any order."""

from .recordings import Stretch as Stretch
from .recordings import pull_back as pull_back
from .recordings import push_forward as push_forward
