#!/bin/sh
# client.sh MOUNT FILE: FILE's sha256 and hmac(sha256), the start of its ctr(aes) ciphertext, and whether that decrypts.
set -eu
mount=$1 file=$2
output=$(mktemp) again=$(mktemp)
trap 'rm -f "$output" "$again"' EXIT

# through IN OUT WORDS...: the file IN through a new context, configured by a line of text, into the file OUT.
through() {
    in=$1 out=$2
    shift 2
    exec 3<>"$mount/crypto" # the context lives as long as this descriptor; a second call replaces it
    read -r id <&3
    exec 4<>"$mount/contexts/$id/ctl"
    if ! printf 'configure %s\n' "$*" >&4; then
        cat <&4 >&2 # the daemon's message
        exit 1
    fi
    cat "$in" >"$mount/contexts/$id/stream" & # in the background: a long file does not fit into the stream's buffer
    cat "$mount/contexts/$id/stream" >"$out"
    wait $!
}

hex() {
    od -An -v -tx1 "$@" | tr -d ' \n'
    echo
}

through "$file" "$output" type=hash 'name=sha256'
hex "$output"
through "$file" "$output" type=hash 'name=hmac(sha256)' key=text:key
hex "$output"

cipher='type=skcipher name=ctr(aes) key=hex:000102030405060708090a0b0c0d0e0f iv=hex:00000000000000000000000000000000'
through "$file" "$output" "$cipher" operation=encrypt
hex -N 32 "$output"
through "$output" "$again" "$cipher" operation=decrypt
if cmp -s "$again" "$file"; then echo same; else echo different; fi
