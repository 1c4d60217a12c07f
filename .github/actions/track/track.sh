#!/usr/bin/env bash
# What the action does: compare with the commit in common with BASE, and add the comment to the job's summary. Only a
# confirmed regression (1) and a wrong request (2) fail. Unproven (4) and nothing measured (3) are printed and pass.
set -uo pipefail
comment="${RUNNER_TEMP:-/tmp}/track.md"
arguments=()
while IFS= read -r line; do
  [ -n "$line" ] && arguments+=(--case "$line")
done <<< "${CASES:-}"
code=0
${CAB:-cab} track compare ${BASE:+"$BASE..."} --comment "$comment" "${arguments[@]}" || code=$?
[ -f "$comment" ] && cat "$comment" >> "${GITHUB_STEP_SUMMARY:-/dev/stdout}"
{
  echo "exit-code=$code"
  echo "comment=$comment"
} >> "${GITHUB_OUTPUT:-/dev/stdout}"
case $code in
  3 | 4) exit 0 ;;
  *) exit "$code" ;;
esac
