"""PKCS#11 URIs: the RFC's own examples, what is refused, and any values there and back."""

import contextlib
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptofs.errors import InvalidValue
from cryptofs.formats.token_uri import TokenObject

SOFT = "The Software PKCS#11 Softtoken"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("pkcs11:", TokenObject()),
        ("pkcs11:object=my-pubkey;type=public", TokenObject(label="my-pubkey", type="public")),
        (
            "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;"
            "object=my-certificate;type=cert;id=%69%95%3E%5C%F4%BD%EC%91;serial=?pin-source=file:/etc/token_pin",
            TokenObject(
                SOFT, "", "Snake Oil, Inc.", "1.0", "my-certificate", bytes.fromhex("69953e5cf4bdec91"), "cert"
            ),
        ),
        (
            "pkcs11:token=A%20name%20with%20a%20substring%20%25%3B;object=my-certificate;type=cert",
            TokenObject("A name with a substring %;", label="my-certificate", type="cert"),
        ),
        (
            "pkcs11:token=Name%20with%20a%20small%20A%20with%20acute:%20%C3%A1;object=my-certificate;type=cert",
            None,
        ),
        ("pkcs11:token=a%20%C3%A1;object=x", TokenObject("a á", label="x")),
    ],
)
def test_examples(uri: str, expected: TokenObject | None) -> None:
    """Those of the RFC. One of them has a label that is longer than a token's can be."""
    if expected is None:
        with pytest.raises(InvalidValue, match="attribute token: 34 bytes: at most 32"):
            TokenObject.parse(uri)
        return
    assert TokenObject.parse(uri) == expected


@pytest.mark.parametrize("source", ["file:/etc/token", "file:///etc/token", "/etc/token", "file:%2Fetc%2Ftoken"])
def test_how_to_reach_it(source: str) -> None:
    """The library and the file with the PIN. They say nothing of which object it is."""
    found = TokenObject.parse(f"pkcs11:object=k?module-path=/mnt/libmypkcs11.so.1&pin-source={source}")
    assert (found.module, found.pin_source) == ("/mnt/libmypkcs11.so.1", "/etc/token")
    assert found == TokenObject(label="k")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("PKCS11:object=k", "begins with pkcs11:"),
        ("pkcs11:object", "it has no value"),
        ("pkcs11:object=a;;type=cert", "it has no value"),
        ("pkcs11:object=a;object=b", "'object': given twice"),
        ("pkcs11:type=key", "one of public, private, cert, secret-key, data"),
        ("pkcs11:label=k", "'label': not one of id, manufacturer, model, object, serial, token, type"),
        ("pkcs11:vendor-aaa=value-a", "'vendor-aaa': not one of"),
        ("pkcs11:slot-id=1", "slot-id: not supported: name the token by"),
        ("pkcs11:library-manufacturer=Snake%20Oil,%20Inc.;library-version=1.23", "library-manufacturer: not supported"),
        ("pkcs11:object=my key", "'object': write blanks"),
        ("pkcs11:object=100%", "'object': write blanks"),
        ("pkcs11:object=%zz", "'object': write blanks"),
        ("pkcs11:object=é", "'object': write blanks"),
        ("pkcs11:object=%ff", "object: not UTF-8"),
        ("pkcs11:object=%0a", "object: an unprintable character"),
        ("pkcs11:serial=12345678901234567", "serial: 17 bytes: at most 16"),
        ("pkcs11:object=k?module-name=mypkcs11", "module-name: not supported: give the library's path"),
        ("pkcs11:object=k?pin-source=|/usr/bin/ask", "no program is run for a PIN"),
        ("pkcs11:object=k?pin-source=pin", "an absolute path"),
        ("pkcs11:object=k?vendor-bbb=value-b", "'vendor-bbb': not one of module-path, pin-source"),
    ],
)
def test_refused(uri: str, said: str) -> None:
    """With the attribute and what to do."""
    with pytest.raises(InvalidValue, match=said.replace("|", r"\|")):
        TokenObject.parse(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "pkcs11:token=Software%20PKCS%2311%20softtoken;manufacturer=Snake%20Oil,%20Inc.?pin-value=canary",
        "pkcs11:object=k?pin-value=can&canary",
        "pkcs11:object=k?canary=1&pin-value=canary",
        "pkcs11:pin-value=canary;canary",
        "pkcs11:object=k;pin-value=can;canary=x",
    ],
)
def test_no_pin_in_a_uri(uri: str) -> None:
    """It is refused wherever it stands, with what to do, and no part of it is shown."""
    with pytest.raises(InvalidValue, match=r"pin-value: .*pin-source=file:PATH, or use pin-credential") as caught:
        TokenObject.parse(uri)
    assert "canary" not in str(caught.value)


_TEXT = st.text(st.characters(exclude_categories=("C", "Z")), max_size=8)


@given(token=_TEXT, label=_TEXT, identity=st.binary(max_size=20))
def test_there_and_back(token: str, label: str, identity: bytes) -> None:
    """Any values, percent-encoded."""
    uri = f"pkcs11:token={quote(token, safe='')};object={quote(label, safe='')};id={quote(identity, safe='')}"
    if len(token.encode()) > 32:
        return
    assert TokenObject.parse(uri) == TokenObject(token, label=label, id=identity)


@given(st.text(max_size=60))
def test_any_text(text: str) -> None:
    """Understood or refused, and nothing else."""
    with contextlib.suppress(InvalidValue):
        assert TokenObject.parse("pkcs11:" + text).place
