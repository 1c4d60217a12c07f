#!/usr/bin/env bash
# What the action does: compare with the commit in common with BASE, and add the comment to the job's summary. With
# GH_TOKEN and PULL_REQUEST it is also the comment on that pull request; an earlier one of this action is replaced. Only
# a confirmed regression (1) and a wrong request (2) fail. Unproven (4) and nothing measured (3) are printed and pass.
set -uo pipefail
comment="${RUNNER_TEMP:-/tmp}/track.md"
arguments=()
while IFS= read -r line; do
  [ -n "$line" ] && arguments+=(--case "$line")
done <<< "${CASES:-}"
code=0
${CAB:-cab} track compare ${BASE:+"$BASE..."} --comment "$comment" "${arguments[@]}" || code=$?
[ -f "$comment" ] && cat "$comment" >> "${GITHUB_STEP_SUMMARY:-/dev/stdout}"
if [ -n "${GH_TOKEN:-}" ] && [ -n "${PULL_REQUEST:-}" ] && [ -f "$comment" ]; then
  comments="repos/$GITHUB_REPOSITORY/issues/$PULL_REQUEST/comments"
  # the first line of a comment that `cab track` writes; a person's comment is left alone, whatever it begins with
  ours='.[] | select(.user.type == "Bot" and (.body | startswith("### Kernel speed:"))) | .id'
  earlier="$(gh api --paginate "$comments" --jq "$ours" | tail -n 1)"
  if [ -n "$earlier" ]; then
    posting=(--method PATCH "repos/$GITHUB_REPOSITORY/issues/comments/$earlier")
  else
    posting=(--method POST "$comments")
  fi
  # a token of a fork may not write: the verdict stands in the summary all the same
  gh api "${posting[@]}" -F "body=@$comment" > /dev/null || echo "the pull request could not be commented on" >&2
fi
{
  echo "exit-code=$code"
  echo "comment=$comment"
} >> "${GITHUB_OUTPUT:-/dev/stdout}"
case $code in
  3 | 4) exit 0 ;;
  *) exit "$code" ;;
esac
