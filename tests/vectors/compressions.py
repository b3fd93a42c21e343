"""Known answers of the kernel's compressions: the values of its own test manager (crypto/testmgr.h).

`made`: what the kernel's compressor makes of the text. `read`: what its decompressor must take.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Vector:
    """One text in one format."""

    name: str
    text: bytes
    made: bytes
    read: bytes


_JOIN = b"Join us now and share the software " * 2
_DEFLATE = (
    b"This document describes a compression method based on the DEFLATEcompression algorithm.  "
    b"This document defines the application of the DEFLATE algorithm to the IP Payload Compression Protocol."
)
_LZO = (
    b"This document describes a compression method based on the LZO compression algorithm.  "
    b"This document defines the application of the LZO algorithm used in UBIFS."
)
_LZ4 = (
    b"LZ4 is lossless compression algorithm, providing compression speed at 400 MB/s per core, scalable with "
    b"multi-cores CPU. It features an extremely fast decoder, with speed in multiple GB/s per core, typically "
    b"reaching RAM speed limits on multi-core systems."
)
_ZSTD = b"The algorithm is zstd. " * 2 + b"The algorithm is zstd."
_ZSTD_LONG = (
    b"zstd, short for Zstandard, is a fast lossless compression algorithm, targeting real-time compression "
    b"scenarios at zlib-level and better compression ratios. The zstd compression library provides in-memory "
    b"compression and decompression functions."
)

_DEFLATE_JOIN = bytes.fromhex("f3cacfcc53282d56c8cb2f5748cc4b5128ce482c4a5528c9485528ce4f2b290771bc082b0100")
_DEFLATE_TEXT = bytes.fromhex(
    "5d8d310ec2301004bfb22fc81f10040989c2853f70b12ff824db67d947c1ef49681251ae7667d62719881ade85ab21f2"
    "085d161e20042dadf318a215852d69c4428323b66c89719befcf8b9fcf33ca2fed62a94c80ff13af5237ed0e526b5902"
    "d94ee87a761d0298fe8a8783a34f568ab89e8e5c57d3a079fa02"
)
_ZLIB_TEXT = bytes.fromhex(
    "785e5dce410ac3300c04c0afec0bf287d2a650e8c1077f40b1955a605bc6560ffd7d931e42e851ecee209f64206a7817"
    "ae86c8237459788010b4b4ce63885614b6a4110b0d8ed86e4b8cdb7c7f5efc7cae517e69174b6502fc1fbc4addd87d48"
    "ad6509643bacebd9c201c0f4173c1c1c7db252c4f5f48feb6a1a344f5f2e32454e"
)
_LZO_JOIN = bytes.fromhex(
    "000d4a6f696e207573206e6f7720616e642073686172652074686520736f66747770013288000c652074686520736f66747761726520110000"
)
_LZO_JOIN_READ = bytes.fromhex(
    "000d4a6f696e207573206e6f7720616e642073686172652074686520736f6674777001014a6f696e3d8800110000"
)
_LZO_TEXT = bytes.fromhex(
    "002c5468697320646f63756d656e7420646573637269626573206120636f6d7072657373696f6e206d6574686f642062"
    "61736564206f6e20746865204c5a4f202a8c0009616c676f726974686d2e20202e54010366696e657320740605617070"
    "6c69636174760a6f668802600927f0000c207573656420696e2055424946532e110000"
)
_LZO_TEXT_READ = bytes.fromhex(
    "002b5468697320646f63756d656e7420646573637269626573206120636f6d7072657373696f6e206d6574686f642062"
    "61736564206f6e20746865204c5a4f2b8c000d616c676f726974686d2e2020546869732a54010266696e657394060561"
    "70706c69636174760a6f668802600927f0000c207573656420696e2055424946532e110000"
)
_LZ4_START = bytes.fromhex(
    "f9214c5a34206973206c6f73736c65737320636f6d7072657373696f6e20616c676f726974686d2c2070726f76696469"
    "6e672100f021737065656420617420343030204d422f732070657220636f72652c207363616c61626c65207769746820"
    "6d756c74692d1a00f00073204350552e2049742066656174751100f20b616e2065787472656d656c7920666173742064"
    "65636f6465722c3d0002670022696e46005a706c6520476c00f0007479706963616c6c79207265616368a7003352414d"
    "3800"
)
_LZ4_END = bytes.fromhex("836c696d697473206f3f00018500902073797374656d732e")
_LZ4HC_END = bytes.fromhex("976c696d697473206f6e8500902073797374656d732e")
_ZSTD_BLOCK = bytes.fromhex("f50000b854686520616c676f726974686d206973207a7374642e20010055733601")
_ZSTD_LONG_BLOCK = bytes.fromhex(
    "750400424b1e1790813100f22fe436c9ef928832c9f22494d8689a0f000cc4316f0d0c38ac5c4803cd6367c0f3ad4e90"
    "aa78a0a4c599da2fb62460e2794baab66b850bc9c6046686e2cce2253f4f09cdb89ddbc190a911bc3544692d9c644f13"
    "3164ccfb4d9593867f337f1aefe930f967a1940a690f60cdc3ab99dc42ed97050033c315953a06a00e20a90e82b94345"
    "01"
)
_MAGIC = bytes.fromhex("28b52ffd")

VECTORS = (
    Vector("deflate", _JOIN, _DEFLATE_JOIN, _DEFLATE_JOIN),
    Vector("deflate", _DEFLATE, _DEFLATE_TEXT, _DEFLATE_TEXT),
    Vector(
        "zlib-deflate",
        _JOIN,
        b"\x78\x5e" + _DEFLATE_JOIN + bytes.fromhex("7c65193d"),
        b"\x78\x9c" + _DEFLATE_JOIN + bytes.fromhex("7c65193d"),
    ),
    Vector("zlib-deflate", _DEFLATE, _ZLIB_TEXT, b"\x78\x9c" + _DEFLATE_TEXT + bytes.fromhex("2e32454e")),
    Vector("lzo", _JOIN, _LZO_JOIN, _LZO_JOIN_READ),
    Vector("lzo", _LZO, _LZO_TEXT, _LZO_TEXT_READ),
    Vector("lz4", _LZ4, _LZ4_START + _LZ4_END, _LZ4_START + _LZ4_END),
    Vector("lz4hc", _LZ4, _LZ4_START + _LZ4HC_END, _LZ4_START + _LZ4HC_END),
    Vector("zstd", _ZSTD, _MAGIC + b"\0\x50" + _ZSTD_BLOCK, _MAGIC + b"\4\x50" + _ZSTD_BLOCK + b"\x6b\xf4\x13\x35"),
    Vector(
        "zstd",
        _ZSTD_LONG,
        _MAGIC + b"\0\x50" + _ZSTD_LONG_BLOCK,
        _MAGIC + b"\4\x50" + _ZSTD_LONG_BLOCK + b"\xaa\x6d\xda\x0d",
    ),
)
