"""Names, sizes and the catalogue of published algorithms."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cryptofs
from cryptofs.algorithms import (
    ANY_KEY,
    NAME_MAX,
    NO_KEY,
    Description,
    Facts,
    KeySizes,
    Name,
    Type,
    check_name,
    complete,
    look_up,
    names,
    parse_name,
    parse_type,
)
from cryptofs.errors import CryptofsError, InvalidValue, NotSupported
from cryptofs.records import ATTRIBUTES, Attr

few = settings(deadline=None, max_examples=200)

WORDS = st.text("abcxyzABC0189_.+/-", min_size=1, max_size=8)
TREES = st.recursive(
    WORDS.map(Name),
    lambda inner: st.builds(Name, WORDS, st.lists(inner, min_size=1, max_size=3).map(tuple)),
    max_leaves=5,
)
CATALOGUE = sorted(names())


@few
@given(TREES.filter(lambda name: len(str(name)) <= NAME_MAX))
def test_parse_undoes_str(name: Name) -> None:
    """A name in text is parsed to itself."""
    assert parse_name(str(name)) == name
    assert check_name(str(name)) == str(name)


@few
@given(TREES.map(lambda name: Name("t" * (NAME_MAX + 1 - len(str(name))) + "t", (name,))))
def test_too_long(name: Name) -> None:
    """A name that a sockaddr_alg cannot hold is refused."""
    with pytest.raises(InvalidValue, match=str(NAME_MAX)):
        parse_name(str(name))


@few
@given(st.text(st.sampled_from("ab(),- ;\n\xe9\0"), max_size=12) | st.text(max_size=70))
def test_any_text(text: str) -> None:
    """Any other text is refused with EINVAL, or it is its own canonical form."""
    try:
        name = parse_name(text)
    except InvalidValue:
        return
    assert str(name) == text
    assert text.count("(") == text.count(")")


@pytest.mark.parametrize(
    "text",
    [
        *("", "(", ")", ",", "()", "cbc(", "cbc()", "cbc(aes", "cbc(aes))", "cbc(aes)x", "(aes)", "a,b", "a(b,)"),
        *("a(,b)", "cbc (aes)", "cbc(aes)\n", "\xe9", "a(b)(c)", "a((b))", "a;b", "a" * (NAME_MAX + 1), "x(" * 31),
    ],
)
def test_no_names(text: str) -> None:
    """What is not of the form."""
    with pytest.raises(InvalidValue):
        parse_name(text)


def test_deepest_name() -> None:
    """Nesting is bounded by the length of a name, not by the interpreter."""
    deep = "a(" * 20 + "a" + ")" * 20
    assert str(parse_name(deep)) == deep


def test_name_max_is_the_attribute() -> None:
    """A name that the format carries is one that the parser takes, and the other way round."""
    assert ATTRIBUTES[Attr.NAME].largest == NAME_MAX
    assert parse_name("n" * NAME_MAX) == Name("n" * NAME_MAX)


@pytest.mark.parametrize("type_", Type)
def test_types(type_: Type) -> None:
    """Each type by its word."""
    assert parse_type(type_.value) is type_


@few
@given(st.text(max_size=60).filter(lambda text: text not in list(Type)))
def test_no_types(text: str) -> None:
    """Another type is refused, and the error names those there are."""
    with pytest.raises(InvalidValue) as caught:
        parse_type(text)
    assert all(type_.value in caught.value.message for type_ in Type)
    assert len(caught.value.message) < 500


# The catalogue


def test_catalogue_is_not_empty() -> None:
    """Every type has names, and no name stands twice."""
    assert {type_ for type_, _ in CATALOGUE} == set(Type)
    assert len(CATALOGUE) == len(set(CATALOGUE))
    assert len(CATALOGUE) > 60


@pytest.mark.parametrize(("type_", "name"), CATALOGUE)
def test_facts(type_: Type, name: str) -> None:
    """Every listed name is found, under its own type alone, with sizes that fit its type."""
    facts = look_up(type_, name)
    assert facts is not None
    assert check_name(name) == name
    assert [other for other in Type if look_up(other, name) is not None] == [type_]
    assert facts.block_size >= 1
    assert facts.iv_size <= ATTRIBUTES[Attr.IV].largest
    assert bool(facts.digest_size) == (type_ is Type.HASH and name != "digest_null")
    assert bool(facts.authsizes) == (type_ is Type.AEAD)
    assert facts.max_authsize == max((0, *facts.authsizes))
    if type_ is not Type.SKCIPHER:
        assert facts.chunk_size == 0
    if type_ in (Type.SKCIPHER, Type.AEAD) and name != "ecb(cipher_null)":
        assert facts.key_sizes.required
        assert facts.key_sizes.takes_key


WHOLE = ("xts", "cts", "essiv", "rfc3686", "lrw", "pcbc", "kw", "xctr", "adiantum")


@pytest.mark.parametrize("name", [name for type_, name in CATALOGUE if type_ is Type.SKCIPHER])
def test_chunk_sizes(name: str) -> None:
    """A chunk is whole blocks and fits the mode; what must be whole has none."""
    facts = look_up(Type.SKCIPHER, name)
    assert facts is not None
    assert facts.chunk_size % facts.block_size == 0
    mode = parse_name(name).template
    expected = {"ecb": facts.block_size, "cbc": facts.block_size, "ctr": 16, "ofb": 16, "cfb": 16}
    expected |= dict.fromkeys(("chacha20", "xchacha20", "xchacha12"), 64)
    assert (facts.chunk_size == 0) == (mode in WHOLE)
    if facts.iv_size and facts.chunk_size:
        assert facts.chunk_size % facts.iv_size == 0
    assert facts.chunk_size == expected.get(mode, 0)


@pytest.mark.parametrize(
    ("name", "size"),
    [("lrw(aes)", 0), ("adiantum(xchacha12,aes)", 0), ("ecb", 0), ("cbc(essiv(aes))", 0), ("xchacha20", 64)],
)
def test_chunk_sizes_of_others(name: str, size: int) -> None:
    """What is not known to chain is taken whole."""
    assert complete(Type.SKCIPHER, name, Facts(16)).chunk_size == size


@pytest.mark.parametrize("name", ["", "aes", "cbc(", "gcm(des3_ede)", "hmac(hmac(sha1))", "cbc(aes)-openssl", "\xe9"])
def test_not_in_the_catalogue(name: str) -> None:
    """Another name has no facts, and no error."""
    assert [type_ for type_ in Type if look_up(type_, name) is not None] == []


# Key sizes


@few
@given(st.lists(st.integers(1, 9000), min_size=1, max_size=4).map(tuple), st.integers(0, 9000))
def test_listed_keys(listed: tuple[int, ...], size: int) -> None:
    """Listed sizes: their text names them all."""
    sizes = KeySizes(listed)
    assert sizes.takes_key
    assert sizes.admits(size) == (size in listed)
    assert all(sizes.admits(each) for each in listed)
    assert str(sizes).split() == [str(each) for each in listed]


@few
@given(st.integers(0, 100), st.integers(1, 9000), st.integers(0, 9200))
def test_key_ranges(smallest: int, more: int, size: int) -> None:
    """A range admits both ends."""
    sizes = KeySizes(smallest=smallest, largest=smallest + more)
    assert sizes.admits(size) == (smallest <= size <= smallest + more)
    assert str(sizes) == f"{smallest}..{smallest + more}"


def test_key_sizes_text() -> None:
    """The forms that the protocol shows, and that they fit the attribute."""
    assert str(NO_KEY) == "none"
    assert not NO_KEY.takes_key
    assert str(ANY_KEY) == "0..8192"
    assert ANY_KEY.largest == ATTRIBUTES[Attr.KEY].largest
    form = re.compile(r"none|\d+( \d+)*|\d+\.\.\d+")
    for type_, name in CATALOGUE:
        facts = look_up(type_, name)
        assert facts is not None
        text = str(facts.key_sizes)
        assert form.fullmatch(text), text
        assert len(text) <= ATTRIBUTES[Attr.KEY_SIZES].largest
        assert facts.key_sizes.takes_key == (text != "none")


@pytest.mark.parametrize(
    ("type_", "name", "iv_size", "nonce", "iv"),
    [
        (Type.AEAD, "gcm(aes)", 12, 12, b"\7" * 12),
        (Type.AEAD, "ccm(aria)", 16, 12, b"\2" + b"\7" * 12 + bytes(3)),
        (Type.SKCIPHER, "chacha20", 16, 12, bytes(4) + b"\7" * 12),
        (Type.SKCIPHER, "xchacha12", 32, 24, b"\7" * 24 + bytes(8)),
        (Type.SKCIPHER, "cbc(twofish)", 16, 16, b"\7" * 16),
        (Type.AEAD, "__not(a,name", 16, 16, b"\7" * 16),
    ],
)
def test_nonce_layouts(type_: Type, name: str, iv_size: int, nonce: int, iv: bytes) -> None:
    """How a nonce becomes the kernel's IV, also of names that only a kernel knows."""
    layout = complete(type_, name, Facts(iv_size=iv_size)).nonce
    assert (layout.size, layout.iv(b"\7" * nonce)) == (nonce, iv)
    assert len(iv) == iv_size


def test_facts_of_names() -> None:
    """What else follows from a name."""
    facts = {name: look_up(type_, name) for type_, name in CATALOGUE}
    assert {name for name, each in facts.items() if each and not each.tag_covers_iv} == {
        name for name in facts if name.startswith("authenc(")
    }
    assert {name for name, each in facts.items() if each and each.counts_text} == {"ccm(aes)", "ccm(camellia)"}
    counters = {name: each.counter_at for name, each in facts.items() if each and each.counter_at is not None}
    assert counters == {"chacha20": 0, "xchacha20": 24, "xchacha12": 24}
    assert {each.assoclens[0] for name, each in facts.items() if each and name.startswith("rfc4")} == {16}
    assert not complete(Type.AEAD, "authencesn(hmac(sha256),cbc(aes))", Facts()).tag_covers_iv
    assert Description.of(Type.AEAD, "ccm(aria)", "af_alg", "x", Facts(iv_size=16)).nonce.size == 12


def test_no_other_module_looks_into_names() -> None:
    """A fact that is found by matching a name stands in two places sooner or later."""
    package = Path(cryptofs.__file__).parent
    matching = re.compile(r"""name\.(startswith|endswith|partition)\(|["'] in (\w+\.)*name\b""")
    found = {str(path.relative_to(package)) for path in package.rglob("*.py") if matching.search(path.read_text())}
    # the kernel's internal names, the families of ECDSA, file names, coreutils' names of digests, credentials
    assert found <= {
        "engines/af_alg/__init__.py",
        "engines/openssl/sig.py",
        "cli/checksums.py",
        "cli/hash.py",
        "cli/steps.py",
    }
    assert matching.search('if description.name.startswith("ccm("):')
    assert matching.search('if "(" in name:')


def test_description_tags() -> None:
    """The lines of an algorithm's file, in the document's order."""
    description = Description.of(
        Type.AEAD, "gcm(aes)", "openssl", "gcm-aes-openssl", Facts(1, 12, KeySizes((16, 32)), authsizes=(12, 16))
    )
    assert description.tags() == (
        "type: aead\nname: gcm(aes)\nengine: openssl\ndriver: gcm-aes-openssl\nblock-size: 1\niv-size: 12\n"
        "key-sizes: 16 32\ndigest-size: 0\nmax-authsize: 16\n"
    )


def test_errors_know_their_errno() -> None:
    """Every class has an errno of its own meaning, a symbol and a message."""
    classes = CryptofsError.__subclasses__()
    assert len(classes) > 15
    for error in classes:
        assert error.__doc__
        assert 0 < error.errno < 512
        assert str(error("why")) == f"{error('why').symbol}: why"
        assert error("why").symbol.startswith("E")
    assert NotSupported("why").symbol == "EOPNOTSUPP"
