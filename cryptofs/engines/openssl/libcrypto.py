"""The C library's OpenSSL, for the two things that pyca/cryptography does not have.

They are textbook RSA, which it never had, and finite-field Diffie-Hellman, which it is about to drop. Python's own ssl
and hashlib modules use the same library, so nearly every Python has it. Without it, these names are not offered. Its
arithmetic on private numbers takes constant time, and RSA is blinded. Calls release the interpreter's lock.
"""

import ctypes
import functools
from ctypes import POINTER, byref, c_char, c_char_p, c_int, c_long, c_size_t, c_ulong, c_void_p
from typing import Any

_NAMES = ("libcrypto.so.4", "libcrypto.so.3")
_RSA = 6
_NO_PADDING = 3
_Pointer = c_void_p
_Bytes = POINTER(c_char)

# By function: its result and its arguments.
_PROTOTYPES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "d2i_AutoPrivateKey": (_Pointer, (c_void_p, POINTER(_Bytes), c_long)),
    "d2i_PUBKEY": (_Pointer, (c_void_p, POINTER(_Bytes), c_long)),
    "i2d_PUBKEY": (c_int, (_Pointer, c_void_p)),
    "EVP_PKEY_free": (None, (_Pointer,)),
    "EVP_PKEY_get_size": (c_int, (_Pointer,)),
    "EVP_PKEY_CTX_new": (_Pointer, (_Pointer, c_void_p)),
    "EVP_PKEY_CTX_free": (None, (_Pointer,)),
    "EVP_PKEY_CTX_new_id": (_Pointer, (c_int, c_void_p)),
    "EVP_PKEY_keygen_init": (c_int, (_Pointer,)),
    "EVP_PKEY_CTX_set_rsa_keygen_bits": (c_int, (_Pointer, c_int)),
    "EVP_PKEY_keygen": (c_int, (_Pointer, POINTER(_Pointer))),
    "EVP_PKEY_CTX_set_rsa_padding": (c_int, (_Pointer, c_int)),
    "EVP_PKEY_encrypt_init": (c_int, (_Pointer,)),
    "EVP_PKEY_encrypt": (c_int, (_Pointer, c_char_p, POINTER(c_size_t), c_char_p, c_size_t)),
    "EVP_PKEY_decrypt_init": (c_int, (_Pointer,)),
    "EVP_PKEY_decrypt": (c_int, (_Pointer, c_char_p, POINTER(c_size_t), c_char_p, c_size_t)),
    "EVP_PKEY_derive_init": (c_int, (_Pointer,)),
    "EVP_PKEY_derive_set_peer": (c_int, (_Pointer, _Pointer)),
    "EVP_PKEY_derive": (c_int, (_Pointer, c_char_p, POINTER(c_size_t))),
    "ERR_clear_error": (None, ()),
    "BN_CTX_new": (_Pointer, ()),
    "BN_CTX_free": (None, (_Pointer,)),
    "BN_new": (_Pointer, ()),
    "BN_bin2bn": (_Pointer, (c_void_p, c_int, c_void_p)),
    "BN_clear_free": (None, (_Pointer,)),
    "BN_mul": (c_int, (_Pointer, _Pointer, _Pointer, _Pointer)),
    "BN_mod_mul": (c_int, (_Pointer, _Pointer, _Pointer, _Pointer, _Pointer)),
    "BN_div": (c_int, (c_void_p, _Pointer, _Pointer, _Pointer, _Pointer)),
    "BN_copy": (_Pointer, (_Pointer, _Pointer)),
    "BN_sub_word": (c_int, (_Pointer, c_ulong)),
    "BN_cmp": (c_int, (_Pointer, _Pointer)),
    "BN_is_one": (c_int, (_Pointer,)),
}


@functools.cache
def library() -> Any:
    """The library with its prototypes, or None if version 3 or later is missing."""
    for name in _NAMES:
        try:
            loaded = ctypes.CDLL(name)
            for function, (result, arguments) in _PROTOTYPES.items():
                entry = getattr(loaded, function)
                entry.restype, entry.argtypes = result, arguments
        except (OSError, AttributeError):
            continue
        return loaded
    return None


class NativeKey:
    """A key within the library, which wipes it when this object is freed. Safe to use from several threads."""

    def __init__(self, pointer: Any) -> None:
        self._library = library()
        self._pointer = pointer
        self._check(pointer)
        self.size: int = self._library.EVP_PKEY_get_size(pointer)
        """Bytes of the modulus."""

    @classmethod
    def parse(cls, encoded: bytearray, private: bool) -> "NativeKey":
        """encoded: DER of a PKCS#8 key, an RSAPrivateKey or a SubjectPublicKeyInfo. Errors: ValueError."""
        function = library().d2i_AutoPrivateKey if private else library().d2i_PUBKEY
        view = (c_char * len(encoded)).from_buffer(encoded)
        position = ctypes.cast(view, _Bytes)
        return cls(function(None, byref(position), len(encoded)))

    @classmethod
    def generate_rsa(cls, bits: int) -> "NativeKey":
        """A new RSA key. Errors: ValueError."""
        native = library()
        context = native.EVP_PKEY_CTX_new_id(_RSA, None)
        made = c_void_p()
        try:
            if native.EVP_PKEY_keygen_init(context) > 0 and native.EVP_PKEY_CTX_set_rsa_keygen_bits(context, bits) > 0:
                native.EVP_PKEY_keygen(context, byref(made))
        finally:
            native.EVP_PKEY_CTX_free(context)
        return cls(made.value)

    def __del__(self) -> None:
        if self._pointer:
            self._library.EVP_PKEY_free(self._pointer)
            self._pointer = None

    def _check(self, result: Any) -> None:
        if not result or (isinstance(result, int) and result < 0):
            self._library.ERR_clear_error()
            raise ValueError("the library refused it")

    def rsa(self, data: bytes, private: bool) -> bytes:
        """Textbook RSA of as many bytes as the modulus has. Errors: ValueError."""
        name = "decrypt" if private else "encrypt"
        with _Operation(self, f"EVP_PKEY_{name}_init") as context:
            self._check(self._library.EVP_PKEY_CTX_set_rsa_padding(context, _NO_PADDING))
            out, size = ctypes.create_string_buffer(self.size), c_size_t(self.size)
            function = getattr(self._library, f"EVP_PKEY_{name}")
            self._check(function(context, out, byref(size), data, len(data)))
            return _take(out, size.value)

    def derive(self, peer: "NativeKey") -> bytes:
        """The shared secret with a peer's public key. Errors: ValueError."""
        with _Operation(self, "EVP_PKEY_derive_init") as context:
            self._check(self._library.EVP_PKEY_derive_set_peer(context, peer._pointer))
            out, size = ctypes.create_string_buffer(self.size), c_size_t(self.size)
            self._check(self._library.EVP_PKEY_derive(context, out, byref(size)))
            return _take(out, size.value)

    def public(self) -> bytes:
        """DER of the SubjectPublicKeyInfo. Errors: ValueError."""
        size = self._library.i2d_PUBKEY(self._pointer, None)
        self._check(size)
        out = ctypes.create_string_buffer(size)
        position = ctypes.cast(out, _Bytes)
        self._check(self._library.i2d_PUBKEY(self._pointer, byref(position)))
        return out.raw


def _take(out: Any, size: int) -> bytes:
    taken: bytes = out.raw[:size]
    ctypes.memset(out, 0, len(out))
    return taken


class _Operation:
    """The library's context of one operation with a key."""

    def __init__(self, key: NativeKey, begin: str) -> None:
        self._key, self._begin = key, begin
        self._context: Any = None

    def __enter__(self) -> Any:
        native = self._key._library
        self._context = native.EVP_PKEY_CTX_new(self._key._pointer, None)
        self._key._check(self._context)
        try:
            self._key._check(getattr(native, self._begin)(self._context))
        except ValueError:
            native.EVP_PKEY_CTX_free(self._context)
            raise
        return self._context

    def __exit__(self, *exception: object) -> None:
        self._key._library.EVP_PKEY_CTX_free(self._context)


class Arithmetic:
    """Large numbers within the library. When the block ends, it zeroes them and all intermediate results.

    A number is a pointer that is valid until then. Errors: ValueError if the library refuses.
    """

    def __init__(self) -> None:
        self._library = library()
        self._numbers: list[Any] = []
        self._context: Any = None

    def __enter__(self) -> "Arithmetic":
        self._context = self._library.BN_CTX_new()
        return self

    def __exit__(self, *exception: object) -> None:
        for number in self._numbers:
            self._library.BN_clear_free(number)
        self._library.BN_CTX_free(self._context)

    def _kept(self, number: Any) -> Any:
        if not number:
            raise ValueError("the library has no memory")
        self._numbers.append(number)
        return number

    def _done(self, result: Any) -> None:
        if not result:
            self._library.ERR_clear_error()
            raise ValueError("the library refused it")

    def number(self, magnitude: memoryview) -> Any:
        """A number from big-endian bytes, which must be writable, because they are read in place."""
        view = (c_char * len(magnitude)).from_buffer(magnitude)
        return self._kept(self._library.BN_bin2bn(view, len(magnitude), None))

    def product(self, first: Any, second: Any) -> Any:
        """first * second."""
        result = self._kept(self._library.BN_new())
        self._done(self._library.BN_mul(result, first, second, self._context))
        return result

    def product_modulo(self, first: Any, second: Any, modulus: Any) -> Any:
        """first * second mod modulus."""
        result = self._kept(self._library.BN_new())
        self._done(self._library.BN_mod_mul(result, first, second, modulus, self._context))
        return result

    def remainder(self, number: Any, modulus: Any) -> Any:
        """number mod modulus."""
        result = self._kept(self._library.BN_new())
        self._done(self._library.BN_div(None, result, number, modulus, self._context))
        return result

    def less_one(self, number: Any) -> Any:
        """number - 1."""
        result = self._kept(self._library.BN_new())
        self._done(self._library.BN_copy(result, number))
        self._done(self._library.BN_sub_word(result, 1))
        return result

    def equal(self, first: Any, second: Any) -> bool:
        """Whether two numbers are the same."""
        return bool(self._library.BN_cmp(first, second) == 0)

    def is_one(self, number: Any) -> bool:
        """Whether a number is 1."""
        return bool(self._library.BN_is_one(number))
