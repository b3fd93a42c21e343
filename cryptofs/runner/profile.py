"""The seccomp profile of a container whose calls the agent answers, as the OCI runtime specification has it."""

import operator
from collections.abc import Callable, Collection, Sequence
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
_OURS = frozenset({"socket", "io_uring_setup"})
_CALLS = frozenset({*_ON_DESCRIPTORS, *AT_ALL, *_OURS, "fcntl", "splice", "sendfile", "socketpair"})

_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "EQ": operator.eq, "NE": operator.ne, "LT": operator.lt, "LE": operator.le, "GT": operator.gt, "GE": operator.ge,
}  # fmt: skip

Rule = dict[str, Any]


def profile(listener: str, base: Rule | None, killable: bool) -> Rule:
    """A profile. listener: the agent's socket; base: a profile that this one is like in all else, None for one that
    allows everything; killable: whether to set KILLABLE, which older runtimes do not know.

    What the base does not allow at all, this one does not either, except socket(2) of AF_ALG. That holds for each
    family of sockets, too.

    Errors: InvalidValue for a base that is no profile, or has rules on arguments of the calls that the agent needs.
    """
    made: Rule = {"defaultAction": _ALLOW} if base is None else dict(base)
    made |= {"listenerPath": listener, "listenerMetadata": "cryptofs"}
    if killable:
        made["flags"] = sorted({*(made.get("flags") or ()), KILLABLE})
    default = made.get("defaultAction")
    kept: list[Rule] = []
    try:
        rules = list(made.get("syscalls") or ())
        granted = {name for rule in rules if rule["action"] == _ALLOW for name in rule["names"]}
        denied = {name for rule in rules if rule["action"] != _ALLOW for name in rule["names"]} - granted - _OURS
        if default != _ALLOW:
            denied.clear()
        for rule in rules:
            if rule.get("args") and set(rule["names"]) & _CALLS - {"socket"}:
                raise InvalidValue(f"the base has rules on arguments of {', '.join(sorted({*rule['names']} & _CALLS))}")
            names = [name for name in rule["names"] if name not in _CALLS - denied]
            if names:
                kept.append({**rule, "names": names})
        families, refusing = _families(rules, default)
    except (KeyError, TypeError, AttributeError):
        raise InvalidValue("the base is no seccomp profile: each rule needs names and an action") from None
    allowed = _CALLS - denied if default == _ALLOW else _CALLS & granted | _OURS
    # A runtime refuses a rule that says what the default says.
    added = [rule for rule in _rules(allowed, families) if rule["names"] and rule["action"] != default]
    made["syscalls"] = kept + refusing + added
    return made


def _families(rules: Sequence[Rule], default: str | None) -> tuple[list[int], list[Rule]]:
    """The families of which a profile allows at least some sockets, and rules that refuse the others.

    There are none of these if the default refuses.
    """
    allowed: list[int] = []
    refusing: list[Rule] = []
    sockets = [rule for rule in rules if "socket" in rule["names"]]
    for family in range(_FAMILIES):
        if family == AF_ALG:
            continue
        fitting = [rule for rule in sockets if all(_may_hold(each, family) for each in rule.get("args") or ())]
        # One on a further argument leaves some sockets.
        whole = [rule for rule in fitting if all(each["index"] == 0 for each in rule.get("args") or ())]
        if default == _ALLOW and whole and all(rule["action"] != _ALLOW for rule in fitting):
            refusing.append({**whole[0], "names": ["socket"], "args": [_condition(0, "EQ", family)]})
        elif default == _ALLOW or (family != _AF_VSOCK and any(rule["action"] == _ALLOW for rule in fitting)):
            allowed.append(family)
    return allowed, refusing


def _may_hold(condition: Rule, family: int) -> bool:
    """Whether a condition holds for some socket of a family."""
    if condition["index"] != 0:
        return True
    value, operation = condition["value"], condition["op"].removeprefix("SCMP_CMP_")
    if operation == "MASKED_EQ":
        return bool(family & value == condition.get("valueTwo", 0))
    return _COMPARISONS[operation](family, value)


def _rules(allowed: Collection[str], families: Collection[int]) -> list[Rule]:
    """What the filter does with the calls of this module. No two of these fit one call."""

    def rule(names: Collection[str], action: str, *conditions: Rule) -> Rule:
        return {"names": [each for each in names if each in allowed], "action": action, "args": list(conditions)}

    ours, others = _condition(0, "GE", BASE), _condition(0, "LT", BASE)
    into_ours, into_others = _condition(2, "GE", BASE), _condition(2, "LT", BASE)
    netlink, crypto = _condition(0, "EQ", AF_NETLINK), _condition(2, "EQ", NETLINK_CRYPTO)
    descriptors = [*_ON_DESCRIPTORS, "fcntl"]
    of_netlink = [rule(["socket"], _NOTIFY, netlink, crypto)]
    of_netlink.append(rule(["socket"], _ALLOW, netlink, _condition(2, "NE", NETLINK_CRYPTO)))
    return [
        rule(descriptors, _NOTIFY, ours),
        rule(descriptors, _ALLOW, others),
        rule(["splice"], _NOTIFY, into_ours),
        rule(["splice"], _NOTIFY, ours, into_others),
        rule(["splice"], _ALLOW, others, into_others),
        rule(["sendfile"], _NOTIFY, ours),
        rule(["sendfile"], _NOTIFY, others, _condition(1, "GE", BASE)),
        rule(["sendfile"], _ALLOW, others, _condition(1, "LT", BASE)),
        rule(AT_ALL, _NOTIFY),
        rule(["socket"], _NOTIFY, _condition(0, "EQ", AF_ALG)),
        *(of_netlink if AF_NETLINK in families else ()),
        *(rule(["socket"], _ALLOW, _condition(0, "EQ", each)) for each in families if each != AF_NETLINK),
        rule(["socketpair"], _NOTIFY, _condition(0, "EQ", AF_ALG)),
        rule(["socketpair"], _ALLOW, _condition(0, "NE", AF_ALG)),
        # Its calls pass by the filter.
        {**rule(["io_uring_setup"], _ERRNO), "errnoRet": _ENOSYS},
    ]


def _condition(index: int, comparison: str, value: int) -> Rule:
    return {"index": index, "value": value, "op": f"SCMP_CMP_{comparison}"}
