"""What may stand in the configuration. Unknown keys are refused everywhere.

docs/configuration.md describes every key for people; a test compares the two.
"""

import contextlib
import grp
import pwd
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ..algorithms import Type, parse_name
from ..algorithms.weak import standard_names
from ..errors import CryptofsError
from ..policy import CONTEXTS_PER_USER, Policy, Rule
from ..records import OPERATION_WORDS, Operation

_NOBODY = (1 << 32) - 1
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
"""What a device may be called."""


class _Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        arbitrary_types_allowed=True,
        alias_generator=lambda name: name.replace("_", "-"),
    )


def _exact_name(text: str) -> str:
    kind, separator, name = text.rpartition(":")
    try:
        if separator:
            Type(kind)
        parse_name(name)
    except (CryptofsError, ValueError):
        raise ValueError("an algorithm's exact name, such as cbc(aes), or type:name") from None
    return text


ExactName = Annotated[str, AfterValidator(_exact_name)]


def _expand(names: tuple[str, ...]) -> frozenset[tuple[Type, str]]:
    found = set()
    for text in names:
        kind, separator, name = text.rpartition(":")
        found |= {(type_, name) for type_ in ((Type(kind),) if separator else Type)}
    return frozenset(found)


def _user(value: Any) -> int:
    return _identity(value, "user", lambda name: pwd.getpwnam(name).pw_uid)


def _group(value: Any) -> int:
    return _identity(value, "group", lambda name: grp.getgrnam(name).gr_gid)


def _identity(value: Any, what: str, look_up: Any) -> int:
    if isinstance(value, str) and not value.isdecimal():
        try:
            return int(look_up(value))
        except KeyError:
            raise ValueError(f"no {what} of this name") from None
    if isinstance(value, bool) or not isinstance(value, int | str) or not 0 <= int(value) < _NOBODY:
        raise ValueError(f"a {what}'s name or number")
    return int(value)


def _mode(value: Any) -> int:
    # a bare number would be decimal: 400 is not "0400"
    if not isinstance(value, str) or not re.fullmatch("0?[0-7]{3}", value):
        raise ValueError('file permissions in octal and in quotes, such as "0640"')
    return int(value, 8) & 0o666


class RuleModel(_Model):
    """Names and bounds. What is not given comes from [policy], and there from the daemon's own bounds."""

    profile: Literal["standard", "all", "none"] | None = None
    allow: tuple[ExactName, ...] = ()
    deny: tuple[ExactName, ...] = ()
    contexts: int | None = Field(default=None, ge=0, le=CONTEXTS_PER_USER)
    requests: int | None = Field(default=None, ge=0, le=1 << 31)
    queue_bytes: int | None = Field(default=None, ge=0, le=1 << 40)
    rate: int | None = Field(default=None, ge=0, le=1_000_000_000)

    def rule(self, base: Rule) -> Rule:
        """The rule, with `base` for what is not given."""
        names = base.names
        if self.profile is not None:
            names = {"all": None, "none": frozenset(), "standard": standard_names()}[self.profile]
        if self.allow and names is not None:
            names = names | _expand(self.allow)
        if self.deny:
            names = (_everything() if names is None else names) - _expand(self.deny)
        return Rule(
            names,
            base.contexts if self.contexts is None else self.contexts,
            base.requests if self.requests is None else self.requests,
            base.queue_bytes if self.queue_bytes is None else self.queue_bytes,
            base.rate if self.rate is None else self.rate,
        )

    @model_validator(mode="after")
    def _deny_needs_a_list(self) -> "RuleModel":
        if self.deny and self.profile == "all":
            raise ValueError('deny has nothing to take away from with profile = "all": use "standard"')
        return self


def _everything() -> frozenset[tuple[Type, str]]:
    from ..algorithms import names

    return frozenset(names())


class PolicyModel(RuleModel):
    """[policy]: the rule for everybody, and those of single users and groups."""

    users: dict[str, RuleModel] = {}
    groups: dict[str, RuleModel] = {}

    def policy(self) -> Policy:
        """Errors: ValueError for a user or group that does not exist."""
        everybody = self.rule(Rule())
        return Policy(
            everybody,
            {_user(name): rule.rule(everybody) for name, rule in self.users.items()},
            {_group(name): rule.rule(everybody) for name, rule in self.groups.items()},
            {_group(name): _members(_group(name)) for name in self.groups},
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


class KeyModel(_Model):
    """key.…: where a device's key comes from; one of file, credential, keyring, pkcs11."""

    file: Path | None = None
    credential: str | None = Field(default=None, pattern=NAME)
    keyring: str | None = Field(default=None, min_length=1, max_length=255)
    pkcs11: str | None = Field(default=None, min_length=1, max_length=255)
    encoding: Literal["raw", "hex"] = "raw"
    type: Literal["user", "logon", "encrypted", "trusted"] | None = None
    module: Path | None = None
    token: str | None = Field(default=None, min_length=1, max_length=32)
    pin_file: Path | None = None
    pin_credential: str | None = Field(default=None, pattern=NAME)

    @model_validator(mode="after")
    def _one_source(self) -> "KeyModel":
        given = [name for name in ("file", "credential", "keyring", "pkcs11") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"one source of file, credential, keyring, pkcs11 ({', '.join(given) or 'none'} given)")
        source = given[0]
        allowed = {
            "file": {"encoding"},
            "credential": {"encoding"},
            "keyring": {"type"},
            "pkcs11": {"module", "token", "pin_file", "pin_credential"},
        }[source]
        extra = sorted(self.model_fields_set - {source} - allowed)
        if extra:
            raise ValueError(f"{extra[0].replace('_', '-')} does not belong to a key from {source}")
        if source == "pkcs11" and (self.module is None or self.token is None):
            raise ValueError("a key from pkcs11 needs module and token")
        if source == "pkcs11" and (self.pin_file is None) == (self.pin_credential is None):
            raise ValueError("a key from pkcs11 needs pin-file or pin-credential")
        return self


_OPERATIONS: dict[str, tuple[Operation, ...]] = {
    "hash": (Operation.DIGEST,),
    "skcipher": (Operation.ENCRYPT, Operation.DECRYPT),
    "aead": (Operation.ENCRYPT, Operation.DECRYPT),
}


class DeviceModel(_Model):
    """[devices.NAME]"""

    type: Literal["skcipher", "aead", "hash"]
    name: ExactName
    authsize: int | None = Field(default=None, ge=1, le=64)
    operations: tuple[Annotated[Operation, BeforeValidator(lambda word: OPERATION_WORDS.get(word, word))], ...] = ()
    user: Annotated[int, BeforeValidator(_user)] = 0
    group: Annotated[int, BeforeValidator(_group)] = 0
    mode: Annotated[int, BeforeValidator(_mode)] = 0o600
    nonce: Literal["daemon", "caller"] = "daemon"
    key: KeyModel

    @model_validator(mode="after")
    def _fits_its_type(self) -> "DeviceModel":
        known = _OPERATIONS[self.type]
        if not set(self.operations).issubset(known) or ("operations" in self.model_fields_set and not self.operations):
            raise ValueError(f"operations of type {self.type}: one or more of {', '.join(each.word for each in known)}")
        kind, separator, _ = self.name.rpartition(":")
        if separator and kind != self.type:
            raise ValueError(f"name is one of type {kind}, the device is of type {self.type}")
        if self.authsize is not None and self.type != "aead":
            raise ValueError(f"authsize: type {self.type} has no tag")
        if self.nonce == "caller" and self.type == "hash":
            raise ValueError("nonce: type hash takes none")
        return self


class DaemonModel(_Model):
    """[daemon]"""

    engines: tuple[str, ...] | None = Field(default=None, min_length=1)
    audit: bool = True


class Config(_Model):
    """The whole file."""

    daemon: DaemonModel = DaemonModel()
    policy: PolicyModel = PolicyModel()
    devices: dict[Annotated[str, Field(pattern=NAME)], DeviceModel] = {}
