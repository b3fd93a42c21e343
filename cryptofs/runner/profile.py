"""The seccomp profile of a container whose calls the agent answers, as the OCI runtime specification has it."""

from collections.abc import Collection
from typing import Any

from ..errors import InvalidValue
from .rules import AF_ALG, AF_NETLINK, AT_ALL, BASE, BY_DESCRIPTOR, NETLINK_CRYPTO

KILLABLE = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
"""The flag without which a signal makes the kernel repeat a call that has been answered already."""
_ALLOW, _NOTIFY, _ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_NOTIFY", "SCMP_ACT_ERRNO"
_ENOSYS = 38
_AF_VSOCK = 40
_FAMILIES = 46
"""Families of sockets that Linux has."""
# Runtimes do not hand over write(2), which they call themselves under the filter.
_ON_DESCRIPTORS = tuple(name for name in BY_DESCRIPTOR if name != "write")
_CALLS = {*_ON_DESCRIPTORS, *AT_ALL, "fcntl", "splice", "socket", "socketpair", "io_uring_setup"}

Rule = dict[str, Any]


def profile(listener: str, base: Rule | None, killable: bool) -> Rule:
    """A profile. listener: the agent's socket; base: a profile that this one is like in all else, None for one that
    allows everything; killable: whether to set KILLABLE, which older runtimes do not know.

    What the base does not allow at all, this one does not either, except socket(2) of AF_ALG.

    Errors: InvalidValue for a base that is no profile, or has rules on arguments of the calls that the agent needs.
    """
    made: Rule = {"defaultAction": _ALLOW} if base is None else dict(base)
    made |= {"listenerPath": listener, "listenerMetadata": "cryptofs"}
    if killable:
        made["flags"] = sorted({*(made.get("flags") or ()), KILLABLE})
    kept: list[Rule] = []
    allowed = set(_CALLS) if made.get("defaultAction") == _ALLOW else {"socket", "io_uring_setup"}
    try:
        for rule in made.get("syscalls") or ():
            names = set(rule["names"])
            if rule["action"] == _ALLOW:
                allowed |= names & _CALLS
            if rule.get("args") and names & _CALLS - {"socket"}:
                raise InvalidValue(f"the base has rules on arguments of {', '.join(sorted(names & _CALLS))}")
            if names - _CALLS:
                kept.append({**rule, "names": [name for name in rule["names"] if name not in _CALLS]})
    except (KeyError, TypeError, AttributeError):
        raise InvalidValue("the base is no seccomp profile: each rule needs names and an action") from None
    # A runtime refuses a rule that says what the default says.
    added = [rule for rule in _rules(allowed) if rule["names"] and rule["action"] != made.get("defaultAction")]
    made["syscalls"] = kept + added
    return made


def _rules(allowed: Collection[str]) -> list[Rule]:
    """What the filter does with the calls of this module. No two of these fit one call."""

    def rule(names: Collection[str], action: str, *conditions: Rule) -> Rule:
        return {"names": [each for each in names if each in allowed], "action": action, "args": list(conditions)}

    ours, others = _condition(0, "GE", BASE), _condition(0, "LT", BASE)
    into_ours, into_others = _condition(2, "GE", BASE), _condition(2, "LT", BASE)
    netlink, crypto = _condition(0, "EQ", AF_NETLINK), _condition(2, "EQ", NETLINK_CRYPTO)
    descriptors = [*_ON_DESCRIPTORS, "fcntl"]
    families = [each for each in range(_FAMILIES) if each not in (AF_ALG, AF_NETLINK, _AF_VSOCK)]
    return [
        rule(descriptors, _NOTIFY, ours),
        rule(descriptors, _ALLOW, others),
        rule(["splice"], _NOTIFY, into_ours),
        rule(["splice"], _NOTIFY, ours, into_others),
        rule(["splice"], _ALLOW, others, into_others),
        rule(AT_ALL, _NOTIFY),
        rule(["socket"], _NOTIFY, _condition(0, "EQ", AF_ALG)),
        rule(["socket"], _NOTIFY, netlink, crypto),
        rule(["socket"], _ALLOW, netlink, _condition(2, "NE", NETLINK_CRYPTO)),
        *(rule(["socket"], _ALLOW, _condition(0, "EQ", each)) for each in families),
        rule(["socketpair"], _NOTIFY, _condition(0, "EQ", AF_ALG)),
        rule(["socketpair"], _ALLOW, _condition(0, "NE", AF_ALG)),
        # Its calls pass by the filter.
        {**rule(["io_uring_setup"], _ERRNO), "errnoRet": _ENOSYS},
    ]


def _condition(index: int, comparison: str, value: int) -> Rule:
    return {"index": index, "value": value, "op": f"SCMP_CMP_{comparison}"}
