# Completion of echion's command line for fish.
#
# tests/integration/test_install.py compares the options with `echion --help`.

# Whether the words so far are options and their values; what comes then is the command.
function __echion_no_command
    set -l words (commandline -opc)
    set -e words[1]
    while set -q words[1]
        switch $words[1]
            case --
                return 1
            case -i --interval -x --exposure -o --output --format -p --pid -w --where --max-frames \
                --tasks --max-output --max-memory --engine
                set -e words[1]
            case '-*'
            case '*'
                return 1
        end
        set -e words[1]
    end
end

complete -c echion -x -d Command -a '(__fish_complete_subcommand -- -i --interval -x --exposure -o --output --format -p --pid -w --where --max-frames --tasks --max-output --max-memory --engine)'
complete -c echion -n __echion_no_command -s h -l help -d 'Show the help and exit'
complete -c echion -n __echion_no_command -s V -l version -d 'Show the version and exit'
complete -c echion -n __echion_no_command -x -s i -l interval -d 'Time between samples'
complete -c echion -n __echion_no_command -s c -l cpu -d 'CPU time instead of wall time'
complete -c echion -n __echion_no_command -x -s x -l exposure -d 'Stop sampling after this time'
complete -c echion -n __echion_no_command -s m -l memory -d 'Planned: memory of Python objects'
complete -c echion -n __echion_no_command -s n -l native -d 'Planned: frames of native code'
complete -c echion -n __echion_no_command -r -F -s o -l output -d 'File for the profile'
complete -c echion -n __echion_no_command -x -l format -a 'austin mojo pprof' -d 'Format of the profile'
complete -c echion -n __echion_no_command -x -s p -l pid -a '(__fish_complete_pids)' -d 'Sample a running process'
complete -c echion -n __echion_no_command -s s -l stealth -d 'Leave out the CPU time of the sampler'
complete -c echion -n __echion_no_command -x -s w -l where -a '(__fish_complete_pids)' -d 'Show where the threads are'
complete -c echion -n __echion_no_command -l json -d 'With -w: JSON on standard output'
complete -c echion -n __echion_no_command -x -l max-frames -d 'Frames of one stack'
complete -c echion -n __echion_no_command -x -l tasks -a 'all running none' -d 'Tasks of asyncio in the profile'
complete -c echion -n __echion_no_command -x -l max-output -d 'End sampling at this size of the profile'
complete -c echion -n __echion_no_command -x -l max-memory -d 'Memory for names and stacks'
complete -c echion -n __echion_no_command -x -l engine -a 'auto bpf perf clock' -d 'What makes the ticks'
complete -c echion -n __echion_no_command -l no-follow -d 'Read stacks from any CPU'
complete -c echion -n __echion_no_command -l allow-seccomp -d 'With -p: attach where a filter cannot be checked'
complete -c echion -n __echion_no_command -l doctor -d 'Show what this machine allows a profiler to do'
complete -c echion -n __echion_no_command -s v -l verbose -d 'Say more on standard error'
