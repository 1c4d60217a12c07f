#!/usr/bin/env bash
# What the action does first: compare with the commit in common with BASE, and add the comment to the job's summary.
# Only a confirmed regression (1) and a wrong request (2) fail. Unproven (4) and nothing measured (3) are printed and
# pass. The pull request is commented on by a step of its own: what is measured here is code of the change.
set -uo pipefail
summary="${GITHUB_STEP_SUMMARY:-/dev/stdout}" output="${GITHUB_OUTPUT:-/dev/stdout}"
# no token of the job, and no file by which this step sets the environment of the next one
unset GH_TOKEN GITHUB_TOKEN GITHUB_ENV GITHUB_PATH GITHUB_OUTPUT
comment="${RUNNER_TEMP:-/tmp}/track.md"
rm -f "$comment" # an earlier use in this job may have left its own
arguments=()
while IFS= read -r line; do
  [ -n "$line" ] && arguments+=(--case "$line")
done <<< "${CASES:-}"
code=0
${CAB:-cab} track compare ${BASE:+"$BASE..."} --comment "$comment" "${arguments[@]}" || code=$?
[ -f "$comment" ] && cat "$comment" >> "$summary"
{
  echo "exit-code=$code"
  echo "comment=$comment"
} >> "$output"
case $code in
  3 | 4) exit 0 ;;
  *) exit "$code" ;;
esac
