# fish completion for cryptofs
function __cryptofs_complete
    set -l word (commandline -ct)
    # Of --option=value, fish replaces the whole word.
    set -l option (string match -r -- '^--[^=]+=' $word; or echo '')
    for line in (env _CRYPTOFS_COMPLETE=fish_complete COMP_WORDS=(commandline -cp) COMP_CWORD=$word cryptofs 2>/dev/null)
        # A name may have commas of its own.
        set -l parts (string split -m 1 , -- $line)
        switch $parts[1]
            case dir
                printf '%s\n' $option(__fish_complete_directories $parts[2])
            case file
                printf '%s\n' $option(__fish_complete_path $parts[2])
            case plain
                printf '%s\n' $option$parts[2]
        end
    end
end

complete --no-files --command cryptofs --arguments '(__cryptofs_complete)'
