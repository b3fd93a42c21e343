"""The allowed contents of the configuration. Unknown keys are refused everywhere.

docs/configuration.md describes every key for people; a test compares the two. If `READERS` has a type, the function
there reads it. The bounds beside every other type check it.
"""

import contextlib
import grp
import pwd
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NewType

from msgspec import Meta, Struct

from ..algorithms import Type, parse_name, standard_names
from ..algorithms import names as all_names
from ..errors import CryptofsError, InvalidValue
from ..formats.token_uri import SCHEME, TokenObject
from ..keyfiles import VERSIONS_MAX, parse_version
from ..policy import CONTEXTS_PER_USER, HANDLES_PER_USER, Policy, Rule
from ..records import DEVICE_OPERATIONS, OPERATION_WORDS, Operation

_NOBODY = (1 << 32) - 1
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
"""The allowed names of a device."""

ExactName = NewType("ExactName", str)
DeviceName = NewType("DeviceName", str)
KeyVersion = NewType("KeyVersion", int)
User = NewType("User", int)
Group = NewType("Group", int)
Mode = NewType("Mode", int)
Label = Annotated[str, Meta(min_length=1, max_length=255)]
Credential = Annotated[str, Meta(pattern=NAME)]


def _exact_name(value: Any) -> ExactName:
    try:
        kind, separator, name = value.rpartition(":")
        if separator:
            Type(kind)
        parse_name(name)
    except (CryptofsError, ValueError, AttributeError):
        raise ValueError("an algorithm's exact name, such as cbc(aes), or type:name") from None
    return ExactName(value)


def _path(value: Any) -> Path:
    # An absolute path, because the daemon may change its directory.
    if not isinstance(value, str) or not value.startswith("/"):
        raise ValueError("an absolute path")
    return Path(value)


def _device_name(value: str) -> DeviceName:
    if not re.fullmatch(NAME, value):
        raise ValueError(f"a device's name matches the pattern {NAME}")
    return DeviceName(value)


def _key_version(value: str) -> KeyVersion:
    try:
        return KeyVersion(parse_version(value))
    except InvalidValue as error:
        raise ValueError(error.message) from None


def _expand(names: tuple[str, ...]) -> frozenset[tuple[Type, str]]:
    found = set()
    for text in names:
        kind, separator, name = text.rpartition(":")
        found |= {(type_, name) for type_ in ((Type(kind),) if separator else Type)}
    return frozenset(found)


def _user(value: Any) -> User:
    return User(_identity(value, "user", lambda name: pwd.getpwnam(name).pw_uid))


def _group(value: Any) -> Group:
    return Group(_identity(value, "group", lambda name: grp.getgrnam(name).gr_gid))


def _identity(value: Any, what: str, look_up: Callable[[str], int]) -> int:
    if isinstance(value, str) and not value.isdecimal():
        try:
            return look_up(value)
        except KeyError:
            raise ValueError(f"no {what} of this name") from None
    if isinstance(value, bool) or not isinstance(value, int | str) or not 0 <= int(value) < _NOBODY:
        raise ValueError(f"a {what}'s name or number")
    return int(value)


def _mode(value: Any) -> Mode:
    # A bare number would be decimal: 400 is not "0400".
    if not isinstance(value, str) or not re.fullmatch("0?[0-7]{3}", value):
        raise ValueError('file permissions in octal and in quotes, such as "0640"')
    return Mode(int(value, 8) & 0o666)


def _operation(value: Any) -> Operation:
    if not isinstance(value, str) or value not in OPERATION_WORDS:
        raise ValueError(f"one of {', '.join(sorted(each.word for each in Operation if each.row.device))}")
    return OPERATION_WORDS[value]


def _token_object(value: Any) -> TokenObject:
    if not isinstance(value, str) or not 0 < len(value) <= 1024:
        raise ValueError("a key's label, or a URI that begins with pkcs11:")
    if not value.startswith(SCHEME):
        if len(value) > 255:
            raise ValueError("a label has at most 255 characters")
        return TokenObject(label=value)
    try:
        found = TokenObject.parse(value)
    except CryptofsError as error:
        raise ValueError(error.message) from None
    if found.type not in (None, "secret-key"):
        raise ValueError(f"type={found.type}: a device takes a secret key of a token: type=secret-key")
    return found


READERS: dict[Any, Callable[[Any], Any]] = {
    ExactName: _exact_name,
    DeviceName: _device_name,
    KeyVersion: _key_version,
    User: _user,
    Group: _group,
    Mode: _mode,
    Operation: _operation,
    Path: _path,
    TokenObject: _token_object,
}


class Table(Struct, frozen=True, rename="kebab"):
    """A table of the file. Making one checks that its keys fit together. Errors: ValueError."""


class RuleModel(Table, frozen=True):
    """Names and bounds. A missing value comes from [policy], and there from the daemon's own bounds."""

    profile: Literal["standard", "all", "none"] | None = None
    allow: tuple[ExactName, ...] = ()
    deny: tuple[ExactName, ...] = ()
    contexts: Annotated[int, Meta(ge=0, le=CONTEXTS_PER_USER)] | None = None
    handles: Annotated[int, Meta(ge=0, le=HANDLES_PER_USER)] | None = None
    requests: Annotated[int, Meta(ge=0, le=1 << 31)] | None = None
    queue_bytes: Annotated[int, Meta(ge=0, le=1 << 40)] | None = None
    rate: Annotated[int, Meta(ge=0, le=1_000_000_000)] | None = None

    def __post_init__(self) -> None:
        if self.deny and self.profile == "all":
            raise ValueError('deny removes nothing from profile = "all": use "standard"')

    def rule(self, base: Rule) -> Rule:
        """The rule; `base` has the values that are not given."""
        names = base.names
        if self.profile is not None:
            names = {"all": None, "none": frozenset(), "standard": standard_names()}[self.profile]
        if self.allow and names is not None:
            names = names | _expand(self.allow)
        if self.deny:
            names = (frozenset(all_names()) if names is None else names) - _expand(self.deny)
        given = {bound.name: getattr(self, bound.name) for bound in fields(Rule) if bound.name != "names"}
        return replace(base, names=names, **{bound: value for bound, value in given.items() if value is not None})


class PolicyModel(RuleModel, frozen=True):
    """[policy]: the rule for everybody, and those of single users and groups."""

    users: dict[User, RuleModel] = {}
    groups: dict[Group, RuleModel] = {}

    def policy(self) -> Policy:
        """The policy that contexts ask."""
        everybody = self.rule(Rule())
        return Policy(
            everybody,
            {uid: rule.rule(everybody) for uid, rule in self.users.items()},
            {gid: rule.rule(everybody) for gid, rule in self.groups.items()},
            {gid: _members(gid) for gid in self.groups},
        )


def _members(gid: int) -> frozenset[int]:
    found = set()
    try:
        names = grp.getgrgid(gid).gr_mem
    except KeyError:
        return frozenset()
    for name in names:
        with contextlib.suppress(KeyError):
            found.add(pwd.getpwnam(name).pw_uid)
    return frozenset(found)


_SOURCES = {
    "file": {"encoding", "passphrase_file", "passphrase_credential"},
    "directory": {"encoding", "passphrase_file", "passphrase_credential"},
    "credential": {"encoding", "passphrase_file", "passphrase_credential"},
    "keyring": {"type"},
    "pkcs11": {"module", "token", "pin_file", "pin_credential"},
}


class KeyModel(Table, frozen=True):
    """key.…: the source of a device's key; one of file, directory, credential, keyring, pkcs11."""

    file: Path | None = None
    directory: Path | None = None
    credential: Credential | None = None
    keyring: Label | None = None
    pkcs11: TokenObject | None = None
    # None: not given; the default is raw, and user.
    encoding: Literal["raw", "hex"] | None = None
    type: Literal["user", "logon", "encrypted", "trusted"] | None = None
    module: Path | None = None
    token: Annotated[str, Meta(min_length=1, max_length=32)] | None = None
    pin_file: Path | None = None
    pin_credential: Credential | None = None
    passphrase_file: Path | None = None
    passphrase_credential: Credential | None = None

    def __post_init__(self) -> None:
        given = {name for name in self.__struct_fields__ if getattr(self, name) is not None}
        sources = [name for name in _SOURCES if name in given]
        if len(sources) != 1:
            raise ValueError(f"one source of {', '.join(_SOURCES)} ({', '.join(sources) or 'none'} given)")
        source = sources[0]
        extra = sorted(given - {source} - _SOURCES[source])
        if extra:
            raise ValueError(f"{extra[0].replace('_', '-')} does not belong to a key from {source}")
        protected = [each for each in (self.passphrase_file, self.passphrase_credential) if each is not None]
        if len(protected) > 1:
            raise ValueError("one of passphrase-file and passphrase-credential")
        if protected and self.encoding == "hex":
            raise ValueError("encoding: a key that a passphrase protects is raw")
        if self.pkcs11 is not None:
            self._check_token(self.pkcs11)

    def _check_token(self, key: TokenObject) -> None:
        if (self.module is None) == (key.module is None):
            raise ValueError("a key from pkcs11 needs one of module, and module-path in its URI")
        if self.token is not None and key.token is not None:
            raise ValueError("token: the URI names it already")
        pins = [self.pin_file, self.pin_credential, key.pin_source]
        if sum(pin is not None for pin in pins) != 1:
            raise ValueError("a key from pkcs11 needs one of pin-file, pin-credential, and pin-source in its URI")

    @property
    def pin_path(self) -> Path | None:
        """The file with the PIN of a token, if it is in a file."""
        if self.pkcs11 is not None and self.pkcs11.pin_source is not None:
            return Path(self.pkcs11.pin_source)
        return self.pin_file

    @property
    def token_object(self) -> tuple[Path, TokenObject]:
        """Of a key from pkcs11: the module, and the key in its token."""
        key = self.pkcs11
        assert key is not None
        module = self.module or Path(key.module or "")
        return module, key if self.token is None else replace(key, token=self.token)


_WITH_NONCES = ("skcipher", "aead")


class DeviceModel(Table, frozen=True):
    """[devices.NAME]"""

    type: Literal["skcipher", "aead", "hash", "akcipher", "sig", "kpp"]
    name: ExactName
    key: KeyModel | None = None
    keys: dict[KeyVersion, KeyModel] = {}
    authsize: Annotated[int, Meta(ge=1, le=64)] | None = None
    operations: tuple[Operation, ...] | None = None
    user: User = User(0)
    group: Group = Group(0)
    mode: Mode = Mode(0o600)
    nonce: Literal["daemon", "caller"] = "daemon"

    def __post_init__(self) -> None:
        if (self.key is None) == (not self.keys):
            raise ValueError("key: one of key and keys is required")
        if len(self.keys) > VERSIONS_MAX:
            raise ValueError(f"keys: {len(self.keys)} versions: at most {VERSIONS_MAX}")
        if any(each.directory is not None for each in self.keys.values()):
            raise ValueError("keys: a directory has its own versions: give it as key.directory")
        known = DEVICE_OPERATIONS[Type(self.type)]
        if self.operations is not None and not (self.operations and known.issuperset(self.operations)):
            words = ", ".join(each.word for each in sorted(known))
            raise ValueError(f"operations of type {self.type}: one or more of {words}")
        kind, separator, _ = self.name.rpartition(":")
        if separator and kind != self.type:
            raise ValueError(f"name is one of type {kind}, the device is of type {self.type}")
        if self.authsize is not None and self.type != "aead":
            raise ValueError(f"authsize: type {self.type} has no tag")
        if self.nonce == "caller" and self.type not in _WITH_NONCES:
            raise ValueError(f"nonce: type {self.type} takes none")


class DaemonModel(Table, frozen=True):
    """[daemon]"""

    engines: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    audit: bool = True
    state: Path | None = None


class Config(Table, frozen=True):
    """The whole file."""

    daemon: DaemonModel = DaemonModel()
    policy: PolicyModel = PolicyModel()
    devices: dict[DeviceName, DeviceModel] = {}
