"""The public key types: what builds a transform of each, and whether this build of OpenSSL has it."""

from ...algorithms import Description, Name, Type, parse_name
from . import akcipher, kpp, sig
from .transform import PairTransform
from .trial import pair_works

_BUILDERS = {Type.AKCIPHER: akcipher.build, Type.SIG: sig.build, Type.KPP: kpp.build}


def build(description: Description, name: Name) -> PairTransform:
    """A transform of a description, whose name is given in its parts as well."""
    return _BUILDERS[description.type](description, name)


def works(description: Description) -> bool:
    """Whether a first operation goes through."""
    return pair_works(lambda: build(description, parse_name(description.name)))
