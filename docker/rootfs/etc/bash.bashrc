# For interactive shells; see /etc/profile for why nothing in here forks.
[ -z "${PS1-}" ] && return

shopt -s checkwinsize histappend globstar
HISTCONTROL=ignoreboth HISTSIZE=5000 HISTFILESIZE=5000

# "sandbox:~/work $ ", with the exit status in red when the last command failed.
__belljar_prompt() {
    local status=$?
    PS1='\[\e[1;32m\]sandbox\[\e[0m\]:\[\e[1;34m\]\w\[\e[0m\] '
    ((status)) && PS1+="\[\e[1;31m\]$status\[\e[0m\] "
    PS1+='\$ '
}
PROMPT_COMMAND=__belljar_prompt

export EDITOR=nano PAGER=less LESS=-FR
alias ls='ls --color=auto' ll='ls -alF' la='ls -A' grep='grep --color=auto' diff='diff --color=auto'

# Alone: where to begin. With an argument: bash's own help.
help() { if (($#)); then builtin help "$@"; else printf '%s\n' "$(</etc/belljar/help)"; fi; }

# bash-completion is 2,000 lines: it is read at the first Tab, not at every start.
__belljar_completion() {
    . /usr/share/bash-completion/bash_completion
    _completion_loader "$@" # its status, 124, has bash try again
}
complete -D -F __belljar_completion
