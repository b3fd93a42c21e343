"""The facts of an algorithm: sizes, and everything that follows from its name.

All facts that another module needs are fields here. No other module derives them from the name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import cached_property
from typing import Any, Self

from ..errors import InvalidValue
from .names import NO_KEY, KeySizes, Levels, Name, Type, parse_name
from .weak import is_weak

Rows = list[tuple[str, int | str]]
"""What a text or an answer shows of something: word and value."""
Octets = bytes | bytearray | memoryview


def format_rows(rows: Rows) -> str:
    """Rows as `tag: value` lines."""
    return "".join(f"{tag}: {value}\n" for tag, value in rows)


@dataclass(frozen=True)
class NonceLayout:
    """How a nonce becomes the IV that the kernel takes. size: bytes of the nonce; before, after: the bytes around
    it."""

    size: int
    before: bytes = b""
    after: bytes = b""

    def iv(self, nonce: bytes) -> bytes:
        """The IV."""
        return self.before + nonce + self.after


class IvAfter(Enum):
    """The IV behind a message, with which AF_ALG and cryptodev continue if the next message brings none."""

    KEPT = auto()
    CIPHERTEXT = auto()
    """The last whole block of the ciphertext."""
    COUNTER = auto()
    """The IV plus the number of blocks."""
    MIXED = auto()
    """The last blocks of input and output, xored."""


@dataclass(frozen=True)
class Facts:
    """Facts of one algorithm; sizes in bytes, 0 where the algorithm has no such thing.

    authsizes: sizes of tags. levels: of a compression, None where it has none. The rest follows from the name, and
    `complete` fills it in.
    """

    block_size: int = 1
    iv_size: int = 0
    key_sizes: KeySizes = NO_KEY
    digest_size: int = 0
    authsizes: Sequence[int] = ()
    levels: Levels | None = None
    chunk_size: int = 0
    """Output of a message in parts comes in multiples of this; 0 if a message can only be computed as a whole."""
    independent: bool = False
    """Whether no output depends on the output before it. An unknown mode counts as one that chains."""
    layout: NonceLayout | None = None
    """The layout of the IV, if it is more than a nonce."""
    counter_at: int | None = None
    """Position of the block counter in the IV (32 bits, little-endian), if it does not continue by itself from part to
    part."""
    iv_after: IvAfter = IvAfter.KEPT
    counts_text: bool = False
    """Whether the IV has the number of bytes that count the text."""
    tag_covers_iv: bool = True
    assoclens: Sequence[int] = range(1 << 32)
    """Sizes of the associated data, the smallest first."""
    weak: bool = False

    @property
    def max_authsize(self) -> int:
        """The largest tag."""
        return max(self.authsizes, default=0)

    @property
    def nonce(self) -> NonceLayout:
        """How a nonce that is drawn at random becomes the IV."""
        return self.layout or NonceLayout(self.iv_size)

    def next_iv(self, iv: bytes, source: Octets, output: Octets, encrypts: bool) -> bytes:
        """The IV behind a message of a skcipher with this IV. source, output: its bytes before and after."""
        size = len(iv)
        match self.iv_after:
            case IvAfter.COUNTER:
                blocks = -(-len(source) // size)
                return ((int.from_bytes(iv, "big") + blocks) % (1 << 8 * size)).to_bytes(size, "big")
            case IvAfter.CIPHERTEXT if len(source) >= size:
                whole = len(source) - len(source) % size
                return bytes((output if encrypts else source)[whole - size : whole])
            case IvAfter.MIXED if len(source) >= size:
                return bytes(one ^ other for one, other in zip(source[-size:], output[-size:], strict=True))
        return iv

    @property
    def chains(self) -> bool:
        """Whether a part's output shows the value that will be mixed with the next part (cbc, cfb). A program that sees
        it before it chooses the next part influences the block cipher's input."""
        return self.chunk_size > 0 and not self.independent


# Only modes known to chain from part to part are streamed. For xts AF_ALG gives wrong output in parts without an error,
# so an unknown mode counts as whole. By template: the chunk, 0 for the cipher's block.
_STREAMED = {"ecb": 0, "cbc": 0, "ctr": 16, "ofb": 16, "cfb": 16}
_STREAM_CIPHERS = {"chacha20": 64, "xchacha20": 64, "xchacha12": 64}
# Independent blocks, and keystreams of key and IV alone.
_INDEPENDENT = frozenset({"ecb", "ctr", "ofb", *_STREAM_CIPHERS})
_ESP: Mapping[str, Any] = {"assoclens": (16, 20)}
_BY_TEMPLATE: Mapping[str, Mapping[str, Any]] = {
    "cbc": {"iv_after": IvAfter.CIPHERTEXT},
    "cfb": {"iv_after": IvAfter.CIPHERTEXT},
    # Its AEADs put the IV, encrypted, into the end of the associated data.
    "essiv": {"iv_after": IvAfter.CIPHERTEXT, "assoclens": range(16, 1 << 32)},
    "ctr": {"iv_after": IvAfter.COUNTER},
    "ofb": {"iv_after": IvAfter.MIXED},
    "pcbc": {"iv_after": IvAfter.MIXED},
    # The length of the counter minus one, the nonce, the counter.
    "ccm": {"layout": NonceLayout(12, b"\2", bytes(3)), "counts_text": True},
    # The counter, the nonce.
    "chacha20": {"layout": NonceLayout(12, bytes(4)), "counter_at": 0},
    # The nonce, the counter.
    "xchacha20": {"layout": NonceLayout(24, after=bytes(8)), "counter_at": 24},
    "xchacha12": {"layout": NonceLayout(24, after=bytes(8)), "counter_at": 24},
    "authenc": {"tag_covers_iv": False},
    "authencesn": {"tag_covers_iv": False},
    "rfc4106": _ESP,
    "rfc4309": _ESP,
    "rfc4543": _ESP,
    "rfc7539esp": {"assoclens": range(8, 1 << 32)},
    "rfc3394": {"assoclens": (0,)},
    "kwp": {"assoclens": (0,)},
}


def complete(type_: Type, name: str, facts: Facts) -> Facts:
    """Facts with what follows from the name, which need not be in the catalogue."""
    try:
        parsed = parse_name(name)
    except InvalidValue:
        return facts
    return replace(
        facts,
        chunk_size=_chunk_size(parsed, facts.block_size) if type_ is Type.SKCIPHER else 0,
        independent=parsed.template in _INDEPENDENT,
        weak=is_weak(parsed),
        **_BY_TEMPLATE.get(parsed.template, {}),
    )


def _chunk_size(name: Name, block_size: int) -> int:
    if not name.arguments:
        return _STREAM_CIPHERS.get(name.template, 0)
    if name.template not in _STREAMED or name.arguments[0].arguments:
        return 0
    return _STREAMED[name.template] or block_size


@dataclass(frozen=True, kw_only=True)
class Description(Facts):
    """The facts of an algorithm as an engine has it: by /proc/crypto for AF_ALG, by the catalogue otherwise."""

    type: Type
    name: str
    engine: str
    driver: str

    @classmethod
    def of(cls, type_: Type, name: str, engine: str, driver: str, facts: Facts, **more: Any) -> Self:
        """A description of an algorithm with these sizes; what follows from its name is filled in."""
        return cls(type=type_, name=name, engine=engine, driver=driver, **vars(complete(type_, name, facts)), **more)

    def choose_authsize(self, authsize: int | None) -> int:
        """The size of the tag: the requested one, or the largest for None. Errors: InvalidValue with the possible
        sizes."""
        if authsize is None:
            return self.max_authsize
        if authsize not in self.authsizes and (authsize or self.authsizes):
            raise self.refuse_authsize(authsize)
        return authsize

    def refuse_authsize(self, authsize: int) -> InvalidValue:
        """The error for an impossible size of a tag."""
        sizes = self.authsizes
        takes = " ".join(map(str, sizes)) if len(sizes) <= 8 else f"{sizes[0]}..{sizes[-1]}"
        return InvalidValue(f"authsize {authsize}: {self.name} takes {takes + ' bytes' if sizes else 'no tag'}")

    def refuse_assoclen(self, assoclen: int) -> InvalidValue:
        """The error for an impossible size of the associated data."""
        sizes = self.assoclens
        takes = f"at least {sizes[0]}" if isinstance(sizes, range) else " or ".join(map(str, sizes))
        return InvalidValue(f"assoclen {assoclen}: {self.name} takes {takes}")

    @cached_property
    def identity(self) -> Rows:
        """Which algorithm, and what computes it: rows of every text that shows a transform."""
        return [("type", self.type.value), ("name", self.name), ("engine", self.engine), ("driver", self.driver)]

    @cached_property
    def sizes(self) -> Rows:
        """Its sizes, as rows."""
        return [
            ("block-size", self.block_size),
            ("iv-size", self.iv_size),
            ("key-sizes", str(self.key_sizes)),
            ("digest-size", self.digest_size),
            ("max-authsize", self.max_authsize),
        ]

    def tags(self) -> str:
        """The description as `tag: value` lines."""
        levels: Rows = [("levels", str(self.levels or "none"))] if self.type is Type.COMPRESSION else []
        return format_rows([*self.identity, *self.sizes, *levels])
