#!/bin/sh
# Pushes a message: push.sh u:alice "hi" [message-id]
# TIDEGATE_HTTP_ADDR names control's HTTP listener; TIDEGATE_SERVICE_TOKEN_FILE a file with a service token (not needed in dev).
set -eu
to=${1:?usage: push.sh TO CONTENT [MESSAGE_ID]}
content=${2:?usage: push.sh TO CONTENT [MESSAGE_ID]}
# The same id sent again is the same message: keep it when you retry.
id=${3:-$(date +%s%N)-$$}
json() { printf '%s' "$1" | sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/	/\\t/g' | awk 'NR > 1 { printf "\\n" } { printf "%s", $0 }'; }
set -- -sS --fail-with-body -w '\n' "http://${TIDEGATE_HTTP_ADDR:-127.0.0.1:8090}/api/v1/push" -H 'content-type: application/json' \
  -d "{\"to\":[\"$(json "$to")\"],\"message\":{\"type\":\"text\",\"content\":\"$(json "$content")\"},\"message_id\":\"$(json "$id")\"}"
if [ -n "${TIDEGATE_SERVICE_TOKEN_FILE:-}" ]; then
  # From a file descriptor, so that the token stands in no argument list.
  printf 'header = "Authorization: Bearer %s"\n' "$(cat "$TIDEGATE_SERVICE_TOKEN_FILE")" | curl --config - "$@"
else
  curl "$@"
fi
