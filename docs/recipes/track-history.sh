#!/usr/bin/env bash
# Record a commit into the history of speed, which lives on a branch of its own that holds nothing else.
#
#     track-history.sh [COMMIT]
#
# CASES     overrides of cab run, one a line; by default grid=track
# BRANCH    the branch of the history; by default cab-history. The first run makes it
# REMOTE    by default origin; or a URL. It is written nowhere, and it is not in the environment of what is measured. It
#           is in the memory of this script and of what started it all the same: code that looks for it there, as the
#           same user of the same machine, finds it. So record what was reviewed. The user that git pushes as must be
#           allowed to write to BRANCH
# PAGE      where the page of all histories is written; by default nowhere
# CAB       the command, by default cab
#
# Every run adds a file, and `cab track record` joins many files into one, so that two runners never write the same
# points. Where another runner has pushed meanwhile, the points are added to what it pushed: they are not measured again.
set -euo pipefail
commit="$(git rev-parse --verify "${1:-HEAD}^{commit}")"
branch="${BRANCH:-cab-history}" remote="${REMOTE:-origin}"
unset REMOTE # a URL may hold a token; it stays in /proc/$$/environ
shown="${remote/"//"*@/"//"}" # without it
cases=()
while IFS= read -r line; do
  [ -n "$line" ] && cases+=(--case "$line")
done <<< "${CASES:-}"

temporary="$(mktemp -d)"
folder="$temporary/history"
trap 'git worktree remove --force "$folder"; rmdir "$temporary"' EXIT
git worktree add --quiet --detach --no-checkout "$folder" "$commit"
in_history() { git -C "$folder" -c user.name="cab track" -c user.email=cab-track@localhost "$@"; }

for attempt in 1 2 3 4 5; do
  parent=()
  there=0
  git ls-remote --quiet --exit-code "$remote" "refs/heads/$branch" > /dev/null || there=$?
  if [ "$there" = 0 ]; then
    in_history fetch --quiet "$remote" "refs/heads/$branch"
    in_history reset --quiet --hard FETCH_HEAD
    parent=(-p "$(in_history rev-parse FETCH_HEAD)")
  elif [ "$there" = 2 ]; then # the remote answers, and has no such branch
    in_history read-tree --empty
  else
    exit "$there"
  fi
  in_history clean --quiet --force -d -x
  ${CAB:-cab} track record "$commit" --history "$folder" "${cases[@]}"
  in_history add --all --force .
  new="$(in_history commit-tree "$(in_history write-tree)" "${parent[@]}" -m "Speed of $commit")"
  # only what continues the branch is accepted, so that nothing that another runner pushed is lost
  if in_history push --quiet "$remote" "$new:refs/heads/$branch"; then
    ${CAB:-cab} track history --last 1 --history "$folder"
    if [ -n "${PAGE:-}" ]; then
      ${CAB:-cab} track plot "$PAGE" --history "$folder"
    fi
    exit 0
  fi
  echo "attempt $attempt: the push was refused; another runner may have been faster" >&2
  sleep "$((RANDOM % 5 + 1))"
done
echo "$branch could not be pushed to $shown in five attempts; run the same command again, with the same CAB_RESULTS," \
  "where the pairs are kept" >&2
exit 1
