#!/bin/sh
# client.sh MOUNT: a hash, an AEAD, a device and an error by the control file and streams, which need no records.
set -eu
cd "$1"

hex() { od -An -v -tx1 | tr -d ' \n'; echo; }

# open WORDS...: a new context on descriptor 3, configured; its directory is $context.
open() {
    exec 3<>crypto # it lives as long as this descriptor
    read -r number <&3
    context=contexts/$number
    exec 4<>"$context/ctl"
    echo "configure $*" >&4 || { cat <&4 >&2; exit 1; } # the daemon's message
}

open type=hash name=sha256
printf abc >"$context/stream"
printf 'hash '
hex <"$context/stream"

key=000102030405060708090a0b0c0d0e0f
aead="type=aead name=gcm(aes) key=hex:$key iv=text:123456789012 assoclen=6"
sealed=$(mktemp)
trap 'rm -f "$sealed"' EXIT
open "$aead" operation=encrypt
printf headertext >"$context/stream"
cat "$context/stream" >"$sealed"
printf 'aead '
hex <"$sealed"

open "$aead" operation=decrypt
{ printf header && cat "$sealed"; } >"$context/stream"
printf 'opened %s\n' "$(cat "$context/stream")"

exec 5<>devices/mac/digest # one open is one message
printf abc >&5
printf 'device '
hex <&5

echo 'reset operation=decrypt iv=text:123456789012' >&4
{ printf Header && cat "$sealed"; } >"$context/stream"
cat "$context/stream" 2>/dev/null && exit 1 # Bad message: no byte comes
sed -n 's/^stream-error: EBADMSG: /error 74 /p' "$context/status"
