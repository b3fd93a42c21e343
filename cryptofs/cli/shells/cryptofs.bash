# bash completion for cryptofs
_cryptofs() {
    local IFS=$'\n' at type value current
    local -a words=()
    for ((at = 0; at <= COMP_CWORD; at++)); do
        # bash splits --option=value at "=".
        if ((at)) && [[ ${COMP_WORDS[at]} == = && ${words[-1]} == --* ]]; then
            ((at < COMP_CWORD)) || words+=("")
        else
            words+=("${COMP_WORDS[at]}")
        fi
    done
    current=${words[-1]}
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain)
                # Algorithm names have parentheses.
                [[ $current == [\'\"]* ]] || printf -v value %q "$value"
                COMPREPLY+=("$value")
                ;;
        esac
    done < <(COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) _CRYPTOFS_COMPLETE=bash_complete "$1" 2>/dev/null)
}

complete -o nosort -F _cryptofs cryptofs
